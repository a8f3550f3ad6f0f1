"""What a preset says of tuning: how many trials a router, and where they may search."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bench.config import Config

Pruner = Literal["median", "hyperband", "none"]


class SearchRange(Config):
    """Numbers from `low` to `high`, both included; of whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = Field(default=False, description="Whether their logarithm is drawn evenly.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("`low` is at most `high`, and above 0 where `log` is set")
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
