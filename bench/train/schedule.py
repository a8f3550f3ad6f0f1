"""When a training looks at its losses, evaluates, keeps its weights and ends.

An agenda knows nothing but the journal, so a training that is continued goes on by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from bench.config import TrainConfig
from bench.train.outcome import SavedSnapshot
from suites.support.subject import HistoryPoint


class Journal(BaseModel):
    """It grows with the training. All numbers are finite.

    Attributes:
        steps: optimiser steps done.
        flops: FLOPs spent on them.
        seconds: of them.
        look: seconds of those since the look before the last.
        over: whether the training has reached its end.
        flops_per_step: FLOPs of the step that was counted last.
        uncounted: operations without a price that were met.
        losses: the task's, of each step since the last evaluation.
        history: losses and accuracies at the evaluations.
        snapshots: weights that were kept.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    look: float = 0.0
    over: bool = False
    flops_per_step: float
    uncounted: set[str] = set()
    losses: list[float] = []
    history: list[HistoryPoint] = []
    snapshots: list[SavedSnapshot] = []

    @property
    def accuracy(self) -> float | None:
        """Share of the validation split that was right at the last evaluation."""
        return next((p.value for p in reversed(self.history) if p.name == "val_top1"), None)

    @property
    def evaluations(self) -> int:
        """How many there were."""
        return sum(point.name == "val_top1" for point in self.history)

    def record(self, split: str, name: str, value: float) -> None:
        """Add to the history what was found after the last step."""
        self.history.append(HistoryPoint(self.steps, self.flops, self.seconds, split, name, value))

    def keep(self, file: str, sha256: str) -> None:
        """Add a snapshot of the weights after the last step."""
        self.snapshots.append(
            SavedSnapshot(
                step=self.steps, flops=self.flops, seconds=self.seconds, file=file, sha256=sha256
            )
        )


LOOK_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""


@dataclass(frozen=True)
class Stretch:
    """Steps that are taken without a look.

    Attributes:
        end: the step before which the next look is.
        evaluate: whether the model is evaluated there.
        keep: whether its weights are kept.
        steps: of the whole training, as far as is known.
    """

    end: int
    evaluate: bool
    keep: bool
    steps: int


class Agenda(Protocol):
    """Of one training."""

    def steps(self, journal: Journal) -> int:
        """Of the whole training, as far as is known."""

    def next(self, journal: Journal) -> Stretch:
        """The next stretch of a training that is not over."""


class ByStep:
    """A training of so many steps; evaluations and snapshots at the ends of equal parts of it."""

    def __init__(self, steps: int, train: TrainConfig) -> None:
        self._steps = steps
        self._evaluations = spaced(steps, train.evaluations)
        self._snapshots = spaced(steps, parts_kept(train))
        looks = range(LOOK_EVERY, steps, LOOK_EVERY)
        self._looks = sorted({*looks, *self._evaluations, *self._snapshots})

    def steps(self, journal: Journal) -> int:
        return self._steps

    def next(self, journal: Journal) -> Stretch:
        end = next(look for look in self._looks if look > journal.steps)
        return Stretch(end, end in self._evaluations, end in self._snapshots, self._steps)


class ByClock:
    """A training of so many seconds; what it has left to do is estimated anew at each look.

    Once it has reached the steps that were planned at its last look it is over, so the learning
    rate falls to its end: the seconds are missed by what that stretch took more or less than it was
    to take.

    Args:
        seconds: of training, evaluations left out.
        train: the recipe.
        pace: seconds of a step, until one was taken.
    """

    def __init__(self, seconds: float, train: TrainConfig, pace: float) -> None:
        self._seconds, self._train, self._pace = seconds, train, pace

    def steps(self, journal: Journal) -> int:
        if journal.over:
            return journal.steps
        left = self._seconds - journal.seconds
        return journal.steps + max(1, round(left / self._pace_of(journal)))

    def next(self, journal: Journal) -> Stretch:
        steps = self.steps(journal)
        kept = len(journal.snapshots) - (self._train.snapshots > 1)
        evaluation = self._due(self._train.evaluations, journal.evaluations, journal, steps)
        snapshot = self._due(parts_kept(self._train), kept, journal, steps)
        end = min(journal.steps + LOOK_EVERY, evaluation, snapshot)
        return Stretch(end, end == evaluation, end == snapshot, steps)

    def _due(self, parts: int, done: int, journal: Journal, steps: int) -> int:
        """The step at the end of the next of equal parts of the seconds."""
        past = floor(parts * journal.seconds / self._seconds)
        number = max(done, past) + 1
        if number >= parts:
            return steps
        left = self._seconds * number / parts - journal.seconds
        return min(steps, journal.steps + max(1, round(left / self._pace_of(journal))))

    def _pace_of(self, journal: Journal) -> float:
        return journal.seconds / journal.steps if journal.steps else self._pace


def parts_kept(train: TrainConfig) -> int:
    """Snapshots beside that of the first weights."""
    return max(train.snapshots - 1, 1)


def spaced(steps: int, parts: int) -> list[int]:
    """Steps at the ends of equal parts of a training, ascending; the last is `steps`."""
    return sorted({round(steps * part / parts) for part in range(1, parts + 1)} - {0})
