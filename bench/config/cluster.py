"""What the workers of an array ask a cluster for: the section `cluster` of a preset."""

import re

from pydantic import Field, field_validator

from bench.config.schema import Config

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
