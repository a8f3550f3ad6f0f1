"""One trial: train to the budget, evaluate and keep the weights along the way.

The test split is never looked at here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from bench.batches import TrainingBatches
from bench.checkpoint import save_weights
from bench.compute.budget import resolve_steps
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset
from bench.evaluate import evaluate
from bench.outcome import Outcome, SavedSnapshot, write_outcome
from bench.trainer import Trainer
from suites.subject import HistoryPoint

Progress = Callable[[int, int, float, float], None]
"""Told now and then: steps done, steps in all, the task's loss, seconds of training."""

LOOK_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""


def train_trial(
    spec: TrialSpec,
    dataset: Dataset,
    device: torch.device,
    folder: Path,
    on_progress: Progress | None = None,
    parent: nn.Module | None = None,
) -> Outcome:
    """Train one trial.

    On a CPU the same trial gives the same bits, with the same number of threads.

    Args:
        spec: the trial.
        dataset: what it trains on.
        device: where it trains.
        folder: for the snapshots and the outcome; made where it is missing.
        on_progress: see `Progress`.
        parent: the trained model of the trial that this one is derived from, on the CPU.

    Returns:
        The outcome, which is also written in the folder. A training whose loss stops being finite
        ends as "diverged", with what it left until then.

    Raises:
        BenchError: the model, the recipe or the data do not fit each other.
    """
    cuda = [device] if device.type == "cuda" else []
    batches = TrainingBatches(spec, dataset, device)
    with torch.random.fork_rng(cuda), closing(batches):
        course = _Course(spec, dataset, batches, device, folder, parent)
        try:
            course.run(on_progress or (lambda *_: None))
            error = None
        except _DivergedError as diverged:
            error = str(diverged)
    outcome = course.outcome(error)
    write_outcome(outcome)
    return outcome


def spaced(steps: int, parts: int) -> list[int]:
    """Steps at the ends of equal parts of a training, ascending; the last is `steps`."""
    return sorted({round(steps * part / parts) for part in range(1, parts + 1)} - {0})


class _DivergedError(Exception):
    """A loss is not finite."""


class _Course:
    """One training from its first step to its last: what it has spent, seen and kept."""

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        folder: Path,
        parent: nn.Module | None,
    ) -> None:
        self._spec, self._dataset, self._device, self._folder = spec, dataset, device, folder
        self._budget = resolve_steps(spec, dataset, batches, device, parent)
        self._trainer = Trainer(spec, dataset, batches, device, self._budget.steps, parent)
        self._steps, self._flops, self._seconds = 0, 0.0, 0.0
        self._flops_per_step = self._budget.flops_per_step
        self._uncounted: set[str] = set()
        self._losses: list[float] = []
        self._history: list[HistoryPoint] = []
        self._snapshots: list[SavedSnapshot] = []

    def run(self, on_progress: Progress) -> None:
        """Train; `_DivergedError` where a loss is not finite."""
        steps, train = self._budget.steps, self._spec.train
        evaluations = spaced(steps, train.evaluations)
        snapshots = spaced(steps, max(train.snapshots - 1, 1))
        if train.snapshots > 1:
            self._keep()
        looks = {*range(0, steps, LOOK_EVERY), *evaluations, *snapshots}
        for start, end in pairwise(sorted(looks)):
            self._train(start, end, count_last=end in evaluations)
            on_progress(end, steps, self._losses[-1], self._seconds)
            if end in evaluations:
                self._evaluate()
            if end in snapshots:
                self._keep()

    def _train(self, start: int, end: int, *, count_last: bool) -> None:
        """Steps `start` to `end`. Steps are taken to cost what the last counted one did."""
        began = self._now()
        plain = [self._trainer.step(step) for step in range(start, end - count_last)]
        seconds = self._now() - began
        self._flops += len(plain) * self._flops_per_step
        losses = plain
        if count_last:
            counter = FlopCounter()
            losses = [*plain, self._trainer.step(end - 1, counter)]
            counted = counter.report()
            self._flops_per_step = counted.total
            self._uncounted |= counted.uncounted.keys()
            self._flops += self._flops_per_step
            # Counting slows a step down: it is charged the mean of the others.
            seconds = seconds * (end - start) / len(plain) if plain else self._now() - began
        self._steps, self._seconds = end, self._seconds + seconds
        self._look(start, torch.stack(losses).tolist())

    def _look(self, start: int, losses: list[float]) -> None:
        for step, loss in enumerate(losses, start):
            if not math.isfinite(loss):
                raise _DivergedError(
                    f"the loss is {loss} at step {step + 1} of {self._budget.steps}"
                )
        self._losses += losses

    def _evaluate(self) -> None:
        """On the validation split; the training loss is the mean since the last time."""
        score = evaluate(
            self._trainer.model,
            self._dataset,
            "val",
            batch_size=self._spec.train.batch_size,
            device=self._device,
            precision=self._spec.train.precision,
        )
        self._record("train", "train_loss", sum(self._losses) / len(self._losses))
        self._record("val", "val_top1", score.top1)
        self._record("val", "val_loss", score.loss)
        self._losses.clear()
        if not math.isfinite(score.loss):
            raise _DivergedError(
                f"the validation loss is {score.loss} after step {self._steps} "
                f"of {self._budget.steps}"
            )

    def _record(self, split: str, name: str, value: float) -> None:
        self._history.append(
            HistoryPoint(self._steps, self._flops, self._seconds, split, name, value)
        )

    def _keep(self) -> None:
        file = f"step-{self._steps:07}.safetensors"
        sha256 = save_weights(self._trainer.model, self._folder / file)
        self._snapshots.append(
            SavedSnapshot(
                step=self._steps,
                flops=self._flops,
                seconds=self._seconds,
                file=file,
                sha256=sha256,
            )
        )

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def outcome(self, error: str | None) -> Outcome:
        """Everything that is known of the training."""
        return Outcome(
            status="done" if error is None else "diverged",
            error=error,
            steps=self._steps,
            planned_steps=self._budget.steps,
            flops=self._flops,
            flops_budget=self._budget.flops_budget,
            within_tolerance=self._budget.met_by(self._flops),
            uncounted=sorted(self._uncounted),
            seconds=self._seconds,
            history=self._history,
            snapshots=self._snapshots,
            folder=self._folder,
        )
