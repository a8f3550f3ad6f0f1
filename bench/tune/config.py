"""What a preset says of tuning: how many trials a router, and where they may search."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from bench.config import Config

Pruner = Literal["median", "hyperband", "none"]
AS = "write it as {low: 1e-4, high: 1e-2, log: true} or {options: [a, b]}"


class SearchRange(Config):
    """Numbers from `low` to `high`, both included; of whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = Field(default=False, description="Whether their logarithm is drawn evenly.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("the low end comes first, and is above 0 where log is true")
        return self


class SearchOptions(Config):
    """One of several values."""

    options: tuple[bool | int | float | str | None, ...] = Field(min_length=1)


SHARED: dict[str, SearchRange | SearchOptions] = {
    "train.lr": SearchRange(low=3e-4, high=1e-2, log=True),
    "train.weight_decay": SearchRange(low=1e-3, high=0.3, log=True),
}
"""Around what vision transformers are trained with by AdamW."""


class TuneConfig(Config):
    """The same for every router."""

    trials: int = Field(default=20, ge=1, description="Of each router.")
    pruner: Pruner = Field(
        default="median", description="Which trials end early, by their validation accuracy."
    )
    ranges: dict[str, SearchRange | SearchOptions] = Field(
        default=SHARED, description="Path -> where to search; those of all routers."
    )

    @field_validator("ranges", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {path: _where(path, asked) for path, asked in given.items()}


def _where(path: str, asked: Any) -> SearchRange | SearchOptions:
    """One range; a message that names its path where it is none."""
    if isinstance(asked, SearchRange | SearchOptions):
        return asked
    options = isinstance(asked, dict) and "options" in asked
    try:
        return (SearchOptions if options else SearchRange).model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        fault = f"{'.'.join(map(str, first['loc'][:1]))} {message}".strip()
        raise ValueError(f"{path}: {asked!r} is no range: {fault}; {AS}") from None
