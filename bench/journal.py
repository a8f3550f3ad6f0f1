"""What a training has spent, seen and kept until now, as plain data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from bench.outcome import SavedSnapshot
from suites.subject import HistoryPoint


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
