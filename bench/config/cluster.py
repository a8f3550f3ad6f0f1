"""The resources that the workers of an array request: the `cluster` section of a preset."""

import re

from pydantic import Field, field_validator

from bench.config.schema import Config

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class ClusterConfig(Config):
    """The resources of each worker of an array. None of them affects a result."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that a node must have."""
    time: str = "8h"
    """Time limit of a worker under Slurm; when it runs out, the worker saves and is requeued."""
    gpus: int = Field(default=0, ge=0)
    cpus: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    setup: tuple[str, ...] = ()
    """Shell lines to run before a worker starts, such as `module load cuda`."""
    save_seconds: int = Field(default=120, ge=10)
    """How many seconds before the limit a worker saves and exits."""

    @field_validator("time")
    @classmethod
    def _a_time(cls, text: str) -> str:
        seconds_in(text)
        return text

    @property
    def minutes(self) -> int:
        """The time limit of a worker in whole minutes."""
        return max(1, round(seconds_in(self.time) / 60))


def seconds_in(text: str) -> float:
    """Return the number of seconds in a time such as `90`, `90s`, `30m`, `2.5h` or `1d`.

    Raises:
        ValueError: the text is not a time, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a time; write it as 90s, 30m, 2.5h or 1d")
    return float(match[1]) * UNITS[match[2]]
