"""What the workers of an array ask a cluster for: section `cluster` of a preset, or a file."""

import re
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import Field, field_validator

from bench.config.schema import Config
from results.text import read_yaml
from routers.errors import RequestError, nearest

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class ClusterConfig(Config):
    """The resources of each worker of an array. None of them changes a result."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that a node must have."""
    time: str = "8h"
    """Limit of a worker; at its end it saves and is requeued."""
    gpus: int = Field(default=0, ge=0)
    cpus: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    setup: tuple[str, ...] = ()
    """Lines of shell before a worker starts, as `module load cuda`."""
    save_seconds: int = Field(default=120, ge=10)
    """Seconds before the limit at which a worker saves and ends."""

    @field_validator("time")
    @classmethod
    def _a_time(cls, text: str) -> str:
        seconds_in(text)
        return text

    @property
    def minutes(self) -> int:
        """The limit of a worker in whole minutes."""
        return max(1, round(seconds_in(self.time) / 60))


def seconds_in(text: str) -> float:
    """Return the seconds in a time as `90`, `90s`, `30m`, `2.5h` or `1d`.

    Raises:
        ValueError: it is none, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is no time; write it as 90s, 30m, 2.5h or 1d")
    return float(match[1]) * UNITS[match[2]]


def cluster_config(section: ClusterConfig, file: Path | None) -> ClusterConfig:
    """Return a preset's section with the values of a file over it.

    Raises:
        RequestError: the file cannot be read, or has an unknown key or a wrong value.
    """
    if file is None:
        return section
    where = f"--cluster {file}"
    try:
        fields: Any = read_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"{where}: cannot read it: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise RequestError(f"{where} is not a mapping, as `partition: gpu`")
    try:
        return ClusterConfig.model_validate({**section.model_dump(), **fields})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            hint = nearest(name, ClusterConfig.model_fields)
            raise RequestError(f"{where}: there is no setting {name!r}{hint}") from None
        why = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise RequestError(f"{where}: {name} = {first['input']!r}: {why}") from None
