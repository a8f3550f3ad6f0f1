"""Results of tuning: the engine writes them into a study's request, and reports read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class SettingResult:
    """The outcome of one setting that was tried.

    Attributes:
        settings: value by path.
        status: how its training on the first seed ended.
        values: the final validation accuracy on each seed; None if the training left no model,
            which counts as 0 in the mean.
        trainings: the fingerprint on each seed; None if the settings cannot be trained.
        flops, seconds: the cost of all attempts at these trainings; an interruption raises it but
            does not change the result, so neither is compared. FLOPs are known only for trainings
            that ran to completion; None if there was none.
    """

    settings: dict[str, Any]
    status: str
    values: Sequence[float | None]
    trainings: Sequence[str | None]
    flops: float | None = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def scores(self) -> tuple[float, ...]:
        """The accuracy on each seed; 0 for a training that left no model."""
        return tuple(value or 0.0 for value in self.values)

    @property
    def mean(self) -> float:
        """The mean accuracy over its seeds."""
        return fmean(self.scores)


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one router.

    Attributes:
        trials: number of settings that were tried; `done`, `pruned` and `failed` count those whose
            training on the first seed ended that way.
        values: the accuracy of each setting, in order, on the first seed; None if its training
            left no model.
        best: the mean accuracy of the best setting over its seeds; None if no setting is done.
        seeds: the number of seeds of the best setting; 0 if there is none.
        settings: the best setting, by path.
        training: the fingerprint of its training on the first seed.
        trainings: the fingerprints of all trainings, each once; settings that cannot be trained
            have none.
        tried: each setting in order, with all of its seeds.
        flops, seconds: the cost of all attempts at the trainings; None if it is not known.
    """

    trials: int
    done: int
    pruned: int
    failed: int
    values: Sequence[float | None]
    best: float | None
    seeds: int
    settings: dict[str, Any]
    training: str | None
    trainings: Sequence[str | None]
    tried: Sequence[SettingResult]
    flops: float | None = field(compare=False)
    seconds: float | None = field(compare=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> SearchResult:
        """Read a record of a study's request; older records had one seed and fewer fields."""
        older = {"values": (), "trainings": (), "seeds": 1, "flops": None, "seconds": None}
        tried = tuple(SettingResult(**each) for each in record.get("tried", ()))
        return cls(**{**older, **record, "tried": tried})

    @property
    def scores(self) -> list[float]:
        """The accuracy of each setting, in order, on the first seed; 0 if it left no model."""
        return [value or 0.0 for value in self.values]

    @property
    def count_trainings(self) -> int:
        """The number of trainings that are over, counting settings that cannot be trained."""
        return sum(len(each.values) for each in self.tried) or self.trials
