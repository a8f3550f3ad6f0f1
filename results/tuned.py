"""The results of tunings: written into a study's request by the engine, and read by reports."""

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
        values: on each seed, the share of the validation split that was right when it ended; None
            where it left no model, which counts as 0 in the mean.
        trainings: the fingerprint on each seed; None where the settings cannot be trained.
        flops, seconds: what all attempts at these trainings took; where a training was interrupted
            it took more, and found the same. FLOPs are known of trainings that came to their end;
            None of no such one.
    """

    settings: dict[str, Any]
    status: str
    values: Sequence[float | None]
    trainings: Sequence[str | None]
    flops: float | None = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def scores(self) -> tuple[float, ...]:
        """The accuracy on each seed; what left no model got nothing right."""
        return tuple(value or 0.0 for value in self.values)

    @property
    def mean(self) -> float:
        """The mean accuracy over its seeds."""
        return fmean(self.scores)


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one router.

    Attributes:
        trials: number of settings that were tried; of them `done`, `pruned` and `failed` are those
            whose training on the first seed ended so.
        values: of each setting in order, its accuracy on the first seed; None where it left no
            model.
        best: the mean accuracy of the best setting over its seeds; None where none is done.
        seeds: the number of its seeds; 0 where there is none.
        settings: the best setting, by path.
        training: the fingerprint of its training on the first seed.
        trainings: the fingerprints of all trainings, each once; none of settings that cannot be
            trained.
        tried: each setting in order, with all of its seeds.
        flops, seconds: what all attempts at the trainings took; None where it is not known.
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
        """Read a record of a study's request; older ones had one seed, and say less."""
        older = {"values": (), "trainings": (), "seeds": 1, "flops": None, "seconds": None}
        tried = tuple(SettingResult(**each) for each in record.get("tried", ()))
        return cls(**{**older, **record, "tried": tried})

    @property
    def scores(self) -> list[float]:
        """Of each setting in order, on the first seed; what left no model got nothing right."""
        return [value or 0.0 for value in self.values]

    @property
    def count_trainings(self) -> int:
        """The number of trainings that are over, with those of settings that cannot be trained."""
        return sum(len(each.values) for each in self.tried) or self.trials
