"""A training run, from its first step or from where it was interrupted, to its outcome.

The test split is never evaluated here.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.compute import ComputeUsed, FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset, TrainingBatches, save_weights, sweep
from bench.model import Parent
from bench.train import checkpoint
from bench.train.evaluation import ByAmount, ByStep, Segment, TrainingState, evaluate
from bench.train.outcome import Outcome, write_outcome
from bench.train.ranks import ALONE, Ranks
from bench.train.step import Trainer, resolve_budget
from routers.errors import NonFiniteError

Progress = Callable[[int, int, float, float | None, int, float], None]
"""Called from time to time with: steps done, steps in total, the task loss, the validation accuracy
at the last evaluation (a share; None before the first), the number of evaluations, the seconds of
training."""
SAVE_EVERY = 60.0
"""Seconds between two checkpoints."""
WARM_UP = 3
"""Steps timed before a training run with a budget of seconds, after as many untimed steps."""


class TrainingInterrupted(Exception):
    """A training run that stopped as requested; its state is saved."""


class DivergedError(Exception):
    """A loss, or a router's logits, that are not finite."""


def train_trial(
    spec: TrialSpec,
    dataset: Dataset,
    device: torch.device,
    folder: Path,
    on_progress: Progress = lambda *_: None,
    parent: Parent | None = None,
    *,
    ranks: Ranks = ALONE,
    save_every: float = SAVE_EVERY,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train one trial, from its first step or from where it was interrupted.

    On a CPU, with the same number of threads, the same trial gives the same bits, even if it was
    interrupted.

    Args:
        folder: for the snapshots, the outcome and, during training, the saved state; created if
            missing. Nothing else may train there at the same time.
        parent: the trained trial that this one is derived from.
        ranks: the ranks that train this trial, each of which calls this function; only the first
            evaluates, writes files and is asked to stop.
        save_every: seconds between two saves of the state; 0 saves after each segment.
        stop: called after each segment; if it returns True, the state is saved and training stops.

    Returns:
        The outcome, which is also written to the folder. If the loss or a router's logits stop
        being finite, it is "diverged" and holds what was recorded until then.

    Raises:
        TrainingInterrupted: training was asked to stop; the next call resumes it.
        NonFiniteError: the logits are not finite in the first step, before the budget is known.
        BenchError: the model, the recipe and the data do not fit together.
    """
    if ranks.first:
        sweep(folder)
    cuda = [device] if device.type == "cuda" else []
    batches = TrainingBatches(spec, dataset, device, ranks.rank)
    with torch.random.fork_rng(cuda), closing(batches):

        def begin() -> TrainingLoop:
            return TrainingLoop(spec, dataset, batches, device, folder, parent, ranks)

        loop = begin()
        try:
            loop.restore()
        except checkpoint.UnusableError as fault:
            file = folder / checkpoint.FILE
            print(
                f"warning: training starts again, {file} cannot be used: {fault}", file=sys.stderr
            )
            loop = begin()
        try:
            loop.run(on_progress, save_every, stop)
            error = None
        except DivergedError as diverged:
            error = str(diverged)
    outcome = loop.outcome(error)
    if ranks.first:
        write_outcome(outcome)
    return outcome


class TrainingLoop:
    """The steps of a training run, segment by segment; arguments as for `train_trial`."""

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        folder: Path,
        parent: Parent | None,
        ranks: Ranks,
    ) -> None:
        self._spec, self._dataset, self._device, self._folder = spec, dataset, device, folder
        self._ranks = ranks
        self._budget = resolve_budget(spec, dataset, batches, device, parent, ranks)

        def trainer(steps: int) -> Trainer:
            return Trainer(spec, dataset, batches, device, steps, parent, ranks)

        budget, train = self._budget, spec.train
        self._schedule: ByStep | ByAmount
        if budget.match == "wall_clock":
            pace = self._pace(trainer(2 * WARM_UP))
            self._schedule = ByAmount("seconds", budget.amount, train, pace)
        elif budget.match == "total_flops":
            self._schedule = ByAmount("flops", budget.amount, train, budget.own.flops)
        else:
            assert budget.steps is not None  # only a budget of seconds has none
            self._schedule = ByStep(budget.steps, train)
        self.state = TrainingState()
        self._trainer = trainer(self.steps)
        self._trainer.step_flops = self.state.step_flops
        self._training = checkpoint.training_of(spec, dataset)

    @property
    def steps(self) -> int:
        """The steps of the whole training, as currently known."""
        return self._schedule.steps(self.state)

    def restore(self) -> None:
        """Resume from the saved state, if there is one.

        Raises:
            UnusableError: the saved state cannot be used; this loop must not be used any more.
        """
        if saved := checkpoint.saved_state(self._folder, self._training):
            self.state, tensors = saved
            if self.state.flops_of_ranks:
                self.state.step_flops = self.state.flops_of_ranks[self._ranks.rank]
            self._trainer.step_flops = self.state.step_flops
            try:
                self._trainer.restore(tensors)
            except (ValueError, RuntimeError) as error:
                raise checkpoint.UnusableError(f"it does not fit the model: {error}") from None
            print(f"training resumes after step {self.state.steps} of {self.steps}")

    def run(self, on_progress: Progress, save_every: float, stop: Callable[[], bool]) -> None:
        """Train to the end; arguments and errors as for `train_trial`, and DivergedError."""
        state, saved = self.state, time.monotonic()
        if self._spec.train.snapshots > 1 and not state.steps:
            self._save_weights()
        while not state.over:
            segment = self._schedule.next(state)
            loss = self._train(segment)
            if segment.evaluate or state.over:
                self._evaluate()
            if segment.keep or state.over:
                self._save_weights()
            accuracy, evaluations = state.accuracy, state.evaluations
            on_progress(state.steps, self.steps, loss, accuracy, evaluations, state.seconds)
            stopping = self._ranks.of_first(stop)
            late = time.monotonic() - saved >= save_every
            if stopping or self._ranks.of_first(partial(bool, late)):
                self._save_state()
                saved = time.monotonic()
            if stopping:
                raise TrainingInterrupted(f"stopped after step {state.steps} of {self.steps}")

    def _train(self, segment: Segment) -> float:
        """Take the steps of a segment, fewer if training ends before; return the last loss.

        FLOPs are counted in the first step of training and in the last before an evaluation. That
        slows these steps down, so they are charged the mean seconds of the segment's other steps,
        or of the steps before the segment.
        """
        state, began = self.state, self._now()
        start, self._trainer.steps = state.steps, segment.steps
        losses: list[Tensor] = []
        counts, counting = 0, 0.0  # steps that were counted, and their seconds
        while state.steps < segment.end and not state.over:
            last = segment.evaluate and state.steps == segment.end - 1
            counter = FlopCounter() if last or not state.steps else None
            at = self._now() if counter else 0.0
            try:
                losses.append(self._trainer.step(state.steps, counter))
            except NonFiniteError as error:
                state.seconds += self._now() - began
                if losses:
                    self._read(losses, start)  # an earlier loss may be the cause
                raise DivergedError(
                    f"{error}, at step {state.steps + 1} of {self.steps}"
                ) from error
            state.steps += 1
            state.flops += state.step_flops.last
            state.over = self._schedule.over(state, segment)
            if counter:
                state.uncounted |= counter.uncounted.keys()
                counts, counting = counts + 1, counting + self._now() - at
        whole, plain = self._now() - began, len(losses) - counts
        if plain:
            pace = (whole - counting) / plain
        else:
            pace = state.seconds / start if start else whole / len(losses)
        state.segment_seconds = self._ranks.of_first(lambda: pace * len(losses))
        state.seconds += state.segment_seconds
        return self._read(losses, start)

    def _read(self, losses: list[Tensor], start: int) -> float:
        """Add the losses of the steps from `start` on to the state; return the last."""
        values: list[float] = torch.stack(losses).tolist()
        for step, loss in enumerate(values, start):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} at step {step + 1} of {self.steps}")
        self.state.losses += values
        return values[-1]

    def _evaluate(self) -> None:
        """Evaluate on the validation split; record the mean training loss since the last time."""
        state, train, model = self.state, self._spec.train, self._trainer.model
        validate = partial(evaluate, model, self._dataset, "val", batch_size=train.batch_size)
        validate = partial(validate, device=self._device, precision=train.precision)
        try:
            score = self._ranks.of_first(validate)
        except NonFiniteError as error:
            when = f"in the validation after step {state.steps} of {self.steps}"
            raise DivergedError(f"{error}, {when}") from error
        state.record("train", "train_loss", sum(state.losses) / len(state.losses))
        state.record("val", "val_top1", score.top1)
        state.record("val", "val_loss", score.loss)
        state.losses.clear()
        if not math.isfinite(score.loss):
            raise DivergedError(
                f"the validation loss is {score.loss} after step {state.steps} of {self.steps}"
            )

    def _save_weights(self) -> None:
        file = f"step-{self.state.steps:07}.safetensors"
        model, path = self._trainer.model, self._folder / file
        self.state.keep(file, self._ranks.of_first(lambda: save_weights(model, path)))

    def _save_state(self) -> None:
        state, trainer = self.state, self._trainer
        state.flops_of_ranks = self._ranks.gather(state.step_flops)
        if self._ranks.first:
            checkpoint.save_state(self._folder, self._training, state, trainer.state())

    def _pace(self, trainer: Trainer) -> float:
        """Return the seconds per step of this trainer, which must not be used afterwards."""
        for _ in range(WARM_UP):
            trainer.step(0)
        began = self._now()
        for _ in range(WARM_UP):
            trainer.step(0)
        return self._ranks.of_first(lambda: (self._now() - began) / WARM_UP)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def outcome(self, error: str | None) -> Outcome:
        """Return everything that is known about the training run."""
        state, budget = self.state, self._budget
        spent = ComputeUsed(state.flops, state.steps, state.seconds, state.segment_seconds)
        return Outcome(
            status="done" if error is None else "diverged",
            error=error,
            steps=state.steps,
            planned_steps=self.steps,
            flops=state.flops,
            flops_budget=budget.flops_budget,
            budget=budget.amount,
            budget_error=budget.error(spent),
            within_tolerance=budget.met_by(spent),
            uncounted=sorted(state.uncounted),
            seconds=state.seconds,
            history=state.history,
            snapshots=state.snapshots,
            folder=self._folder,
        )
