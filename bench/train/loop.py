"""One training from its first step to its last, look by look."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.compute import ComputeSpent, FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset, TrainingBatches, save_weights
from bench.train import checkpoint
from bench.train.evaluation import evaluate
from bench.train.outcome import Outcome
from bench.train.schedule import ByClock, ByStep, EvaluationSchedule, Segment, TrainingState
from bench.train.step import Trainer, resolve_budget
from routers.errors import NonFiniteError

REHEARSED = 3
"""Steps that a training against the clock is timed by before it begins, after as many others."""


class DivergedError(Exception):
    """A loss is not finite, or a router's logits are not."""


class TrainingLoop:
    """The steps and the state of one training.

    Args:
        spec: the trial.
        dataset: what it trains on.
        batches: of its training split.
        device: where it trains.
        folder: for the snapshots.
        parent: see `starting_model`.

    Attributes:
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
    ) -> None:
        self._spec, self._dataset, self._device, self._folder = spec, dataset, device, folder
        self._budget = resolve_budget(spec, dataset, batches, device, parent)

        def trainer(steps: int) -> Trainer:
            return Trainer(spec, dataset, batches, device, steps, parent)

        self._agenda: EvaluationSchedule
        if self._budget.steps is None:
            pace = self._pace(trainer(2 * REHEARSED))
            self._agenda = ByClock(self._budget.amount, spec.train, pace)
        else:
            self._agenda = ByStep(self._budget.steps, spec.train)
        self.journal = TrainingState(flops_per_step=self._budget.own.flops)
        self._trainer = trainer(self.steps)
        self._training = checkpoint.training_of(spec, dataset)

    @property
    def steps(self) -> int:
        """Of the whole training, as far as is known."""
        return self._agenda.steps(self.journal)

    def save(self) -> None:
        """Write down what a later process goes on from."""
        checkpoint.save_state(self._folder, self._training, self.journal, self._trainer.state())

    def restore(self) -> None:
        """Go on from what was saved, if anything was.

        Raises:
            UnusableError: it is of no use, nor is this course any more.
        """
        if found := checkpoint.saved_state(self._folder, self._training):
            self.journal, state = found
            try:
                self._trainer.restore(state)
            except (ValueError, RuntimeError) as error:
                raise checkpoint.UnusableError(f"it does not fit the model: {error}") from None

    def looks(self) -> Iterator[float]:
        """Train from look to look; yields the task's loss at each, when all is done there.

        Raises:
            DivergedError: a loss is not finite, or a router's logits are not.
        """
        if self._spec.train.snapshots > 1 and not self.journal.steps:
            self._keep()
        while not self.journal.over:
            stretch = self._agenda.next(self.journal)
            loss = self._train(stretch)
            if stretch.evaluate:
                self._evaluate()
            if stretch.keep:
                self._keep()
            self.journal.over = stretch.end == stretch.steps
            yield loss

    def _train(self, stretch: Segment) -> float:
        """The steps of a stretch; returns the last loss.

        Steps are taken to cost what the last counted one did.
        """
        began, journal, end = self._now(), self.journal, stretch.end
        start, self._trainer.steps = journal.steps, stretch.steps
        losses: list[Tensor] = []
        self._take_steps(range(start, end - stretch.evaluate), losses, began)
        plain, seconds = len(losses), self._now() - began
        journal.flops += plain * journal.flops_per_step
        if stretch.evaluate:
            counter = FlopCounter()
            self._take_steps([end - 1], losses, began, counter)
            counted = counter.report()
            journal.flops_per_step = counted.total - self._trainer.overhead
            journal.uncounted |= counted.uncounted.keys()
            journal.flops += journal.flops_per_step
            seconds = self._uncounted(seconds, plain, self._now() - began)
        journal.steps, journal.segment_seconds = end, seconds
        journal.seconds += seconds
        return self._look(start, losses)

    def _take_steps(
        self,
        steps: Sequence[int],
        losses: list[Tensor],
        began: float,
        counter: FlopCounter | None = None,
    ) -> None:
        """Take some steps of a stretch, which began then, and append their losses."""
        for step in steps:
            try:
                losses.append(self._trainer.step(step, counter))
            except NonFiniteError as error:
                start, self.journal.steps = self.journal.steps, step
                self.journal.flops += (step - steps[0]) * self.journal.flops_per_step
                self.journal.seconds += self._now() - began
                if losses:
                    self._look(start, losses)  # a loss before it may be the cause
                raise DivergedError(f"{error}, at step {step + 1} of {self.steps}") from error

    def _uncounted(self, seconds: float, plain: int, whole: float) -> float:
        """Seconds of a stretch whose last step was counted.

        Counting slows a step down: it is charged the mean of the others, or of those before.
        """
        if plain:
            return seconds * (plain + 1) / plain
        return self.journal.seconds / self.journal.steps if self.journal.steps else whole

    def _look(self, start: int, losses: list[Tensor]) -> float:
        values: list[float] = torch.stack(losses).tolist()
        for step, loss in enumerate(values, start):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} at step {step + 1} of {self.steps}")
        self.journal.losses += values
        return values[-1]

    def _evaluate(self) -> None:
        """On the validation split; the training loss is the mean since the last time."""
        journal = self.journal
        try:
            score = evaluate(
                self._trainer.model,
                self._dataset,
                "val",
                batch_size=self._spec.train.batch_size,
                device=self._device,
                precision=self._spec.train.precision,
            )
        except NonFiniteError as error:
            when = f"in the validation after step {journal.steps} of {self.steps}"
            raise DivergedError(f"{error}, {when}") from error
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

    def _pace(self, trainer: Trainer) -> float:
        """Seconds of a step of this trainer, which is of no use after it."""
        for _ in range(REHEARSED):
            trainer.step(0)
        began = self._now()
        for _ in range(REHEARSED):
            trainer.step(0)
        return (self._now() - began) / REHEARSED

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def outcome(self, error: str | None) -> Outcome:
        """Everything that is known of the training."""
        journal = self.journal
        spent = ComputeSpent(journal.flops, journal.steps, journal.seconds, journal.segment_seconds)
        return Outcome(
            status="done" if error is None else "diverged",
            error=error,
            steps=journal.steps,
            planned_steps=self.steps,
            flops=journal.flops,
            flops_budget=self._budget.flops_budget,
            budget=self._budget.amount,
            budget_error=self._budget.error(spent),
            within_tolerance=self._budget.met_by(spent),
            uncounted=sorted(journal.uncounted),
            seconds=journal.seconds,
            history=journal.history,
            snapshots=journal.snapshots,
            folder=self._folder,
        )
