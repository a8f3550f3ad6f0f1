"""One training from its first step to its last, look by look."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from bench import resume
from bench.batches import TrainingBatches
from bench.checkpoint import save_weights
from bench.compute.budget import resolve_steps
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset
from bench.evaluate import evaluate
from bench.journal import Journal
from bench.outcome import Outcome
from bench.trainer import Trainer

LOOK_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""


class DivergedError(Exception):
    """A loss is not finite."""


class Course:
    """What a training does, and what is known of it.

    Args:
        spec: the trial.
        dataset: what it trains on.
        batches: of its training split.
        device: where it trains.
        folder: for the snapshots.
        parent: see `starting_model`.
        micro_batches: see `Trainer`.

    Attributes:
        steps: of the whole training.
        journal: what was done until now.
    """

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        folder: Path,
        parent: nn.Module | None,
        micro_batches: int,
    ) -> None:
        self._spec, self._dataset, self._device, self._folder = spec, dataset, device, folder
        self._budget = resolve_steps(spec, dataset, batches, device, parent, micro_batches)
        self.steps = self._budget.steps
        self._trainer = Trainer(spec, dataset, batches, device, self.steps, parent, micro_batches)
        self._training = resume.training_of(spec, dataset)
        self.journal = Journal(flops_per_step=self._budget.flops_per_step)

    def save(self) -> None:
        """Write down what a later process goes on from."""
        resume.save(self._folder, self._training, self.journal, self._trainer.state())

    def restore(self) -> None:
        """Go on from what was saved, if anything was.

        Raises:
            UnusableError: it is of no use, nor is this course any more.
        """
        if found := resume.saved(self._folder, self._training):
            self.journal, state = found
            try:
                self._trainer.restore(state)
            except (ValueError, RuntimeError) as error:
                raise resume.UnusableError(f"it does not fit the model: {error}") from None

    def looks(self) -> Iterator[float]:
        """Train from look to look; yields the task's loss at each, when all is done there.

        Raises:
            DivergedError: a loss is not finite.
        """
        train, journal = self._spec.train, self.journal
        evaluations = spaced(self.steps, train.evaluations)
        snapshots = spaced(self.steps, max(train.snapshots - 1, 1))
        if train.snapshots > 1 and not journal.steps:
            self._keep()
        looks = {*range(0, self.steps, LOOK_EVERY), *evaluations, *snapshots}
        for start, end in pairwise(sorted(look for look in looks if look >= journal.steps)):
            loss = self._train(start, end, count_last=end in evaluations)
            if end in evaluations:
                self._evaluate()
            if end in snapshots:
                self._keep()
            yield loss

    def _train(self, start: int, end: int, *, count_last: bool) -> float:
        """Steps `start` to `end`; returns the last loss.

        Steps are taken to cost what the last counted one did.
        """
        began, journal = self._now(), self.journal
        plain = [self._trainer.step(step) for step in range(start, end - count_last)]
        seconds = self._now() - began
        journal.flops += len(plain) * journal.flops_per_step
        losses = plain
        if count_last:
            counter = FlopCounter()
            losses = [*plain, self._trainer.step(end - 1, counter)]
            counted = counter.report()
            journal.flops_per_step = counted.total - self._trainer.overhead
            journal.uncounted |= counted.uncounted.keys()
            journal.flops += journal.flops_per_step
            # Counting slows a step down: it is charged the mean of the others.
            seconds = seconds * (end - start) / len(plain) if plain else self._now() - began
        journal.steps, journal.seconds = end, journal.seconds + seconds
        return self._look(start, torch.stack(losses).tolist())

    def _look(self, start: int, losses: list[float]) -> float:
        for step, loss in enumerate(losses, start):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} at step {step + 1} of {self.steps}")
        self.journal.losses += losses
        return losses[-1]

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
        journal = self.journal
        journal.record("train", "train_loss", sum(journal.losses) / len(journal.losses))
        journal.record("val", "val_top1", score.top1)
        journal.record("val", "val_loss", score.loss)
        journal.losses.clear()
        if not math.isfinite(score.loss):
            raise DivergedError(
                f"the validation loss is {score.loss} after step {journal.steps} of {self.steps}"
            )

    def _keep(self) -> None:
        file = f"step-{self.journal.steps:07}.safetensors"
        self.journal.keep(file, save_weights(self._trainer.model, self._folder / file))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def outcome(self, error: str | None) -> Outcome:
        """Everything that is known of the training."""
        journal = self.journal
        return Outcome(
            status="done" if error is None else "diverged",
            error=error,
            steps=journal.steps,
            planned_steps=self.steps,
            flops=journal.flops,
            flops_budget=self._budget.flops_budget,
            within_tolerance=self._budget.met_by(journal.flops),
            uncounted=sorted(journal.uncounted),
            seconds=journal.seconds,
            history=journal.history,
            snapshots=journal.snapshots,
            folder=self._folder,
        )


def spaced(steps: int, parts: int) -> list[int]:
    """Steps at the ends of equal parts of a training, ascending; the last is `steps`."""
    return sorted({round(steps * part / parts) for part in range(1, parts + 1)} - {0})
