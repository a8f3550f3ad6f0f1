"""Evaluation during training: when to evaluate, save the weights and stop, and how to evaluate.

A schedule depends only on the training state, so a resumed run follows the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from bench.compute import StepFlops
from bench.config import TrainConfig
from bench.data import Dataset, normalise
from bench.model import autocast, forward_pass, naming_layer, unless_refused
from bench.train.outcome import SavedSnapshot
from suites.support.subject import HistoryPoint, Observed


class TrainingState(BaseModel):
    """The progress of a training run so far. All numbers are finite.

    Attributes:
        steps: optimiser steps done; `flops` and `seconds` were spent on them.
        segment_seconds: time spent on the last segment.
        step_flops: what is known about the FLOPs of a step.
        uncounted: operations that ran and whose FLOPs are not known.
        flops_of_ranks: `step_flops` of each rank, when the state was saved.
        losses: the task loss of each step since the last evaluation.
        history: losses and accuracies at the evaluations.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    segment_seconds: float = 0.0
    over: bool = False
    step_flops: StepFlops = Field(default_factory=StepFlops)
    flops_of_ranks: list[StepFlops] = []
    uncounted: set[str] = set()
    losses: list[float] = []
    history: list[HistoryPoint] = []
    snapshots: list[SavedSnapshot] = []

    @property
    def accuracy(self) -> float | None:
        """The validation accuracy at the last evaluation, as a share; None before the first."""
        return next((p.value for p in reversed(self.history) if p.name == "val_top1"), None)

    @property
    def evaluations(self) -> int:
        """The number of evaluations so far."""
        return sum(point.name == "val_top1" for point in self.history)

    def record(self, split: str, name: str, value: float) -> None:
        """Add a value measured after the last step to the history."""
        self.history.append(HistoryPoint(self.steps, self.flops, self.seconds, split, name, value))

    def keep(self, file: str, sha256: str) -> None:
        """Add a snapshot of the weights after the last step."""
        at: dict[str, Any] = {"step": self.steps, "flops": self.flops, "seconds": self.seconds}
        self.snapshots.append(SavedSnapshot(**at, file=file, sha256=sha256))


READ_LOSSES_EVERY = 10
"""Steps between two reads of the losses, each of which waits for the device."""


@dataclass(frozen=True)
class Segment:
    """Consecutive steps whose losses are read together, after the last of them.

    Attributes:
        end: the number of steps done when the segment ends.
        evaluate, keep: whether the model is evaluated, and its weights saved, at the end. Both also
            happen when training ends, which cannot be foreseen with a budget of FLOPs.
        steps: the steps of the whole training, as currently estimated.
    """

    end: int
    evaluate: bool
    keep: bool
    steps: int


class ByStep:
    """A schedule of a fixed number of steps, with evaluations and snapshots evenly spaced."""

    def __init__(self, steps: int, train: TrainConfig) -> None:
        self._steps = steps
        self._evaluations = spaced(steps, train.evaluations)
        self._snapshots = spaced(steps, parts_kept(train))
        regular = range(READ_LOSSES_EVERY, steps, READ_LOSSES_EVERY)
        self._ends = sorted({*regular, *self._evaluations, *self._snapshots})

    def steps(self, _state: TrainingState) -> int:
        """Return the steps of the whole training."""
        return self._steps

    def over(self, state: TrainingState, _segment: Segment) -> bool:
        """Tell, after a step, whether training is over."""
        return state.steps == self._steps

    def next(self, state: TrainingState) -> Segment:
        """Return the next segment of a training run that is not over."""
        end = next(end for end in self._ends if end > state.steps)
        return Segment(end, end in self._evaluations, end in self._snapshots, self._steps)


class ByAmount:
    """A schedule for a fixed amount of seconds or FLOPs, which estimates the remaining steps.

    Each segment has its own estimate, so the learning rate falls with the share of the amount that
    was spent. FLOPs are known after each step: training ends with the step that comes nearest to
    the amount. Seconds are known only after a segment: training ends after the number of steps
    estimated before its last segment, and misses the amount by the error of that estimate.

    Args:
        amount: seconds or FLOPs of the whole training, without evaluations.
        pace: amount that a step takes, used until the first step has been measured.
    """

    def __init__(
        self, quantity: Literal["seconds", "flops"], amount: float, train: TrainConfig, pace: float
    ) -> None:
        self._quantity, self._amount, self._train, self._pace = quantity, amount, train, pace

    def steps(self, state: TrainingState) -> int:
        """Return the steps of the whole training, as currently estimated."""
        if state.over:
            return state.steps
        return state.steps + max(1, self._steps_left(state))

    def over(self, state: TrainingState, segment: Segment) -> bool:
        """Tell, after a step of a segment, whether training is over."""
        if self._quantity == "flops":
            return self._amount - state.flops < state.step_flops.last / 2
        return state.steps == segment.steps

    def next(self, state: TrainingState) -> Segment:
        """Return the next segment of a training run that is not over."""
        steps = self.steps(state)
        kept = len(state.snapshots) - (self._train.snapshots > 1)
        evaluation = self._due(self._train.evaluations, state.evaluations, state, steps)
        snapshot = self._due(parts_kept(self._train), kept, state, steps)
        end = min(state.steps + READ_LOSSES_EVERY, evaluation, snapshot)
        # With FLOPs, the step estimated to be the last may turn out not to be.
        sure = end < steps or self._quantity == "seconds"
        return Segment(end, sure and end == evaluation, sure and end == snapshot, steps)

    def _due(self, parts: int, done: int, state: TrainingState, steps: int) -> int:
        """Return the step at which the next of `parts` equal parts of the amount ends."""
        past = floor(parts * self._spent(state) / self._amount)
        number = max(done, past) + 1
        if number >= parts:
            return steps
        left = self._amount * number / parts - self._spent(state)
        return min(steps, state.steps + max(1, round(left / self._pace_of(state))))

    def _steps_left(self, state: TrainingState) -> int:
        return round((self._amount - self._spent(state)) / self._pace_of(state))

    def _spent(self, state: TrainingState) -> float:
        return state.seconds if self._quantity == "seconds" else state.flops

    def _pace_of(self, state: TrainingState) -> float:
        return self._spent(state) / state.steps if state.steps else self._pace


def parts_kept(train: TrainConfig) -> int:
    """Return the number of snapshots, not counting the initial weights."""
    return max(train.snapshots - 1, 1)


def spaced(steps: int, parts: int) -> list[int]:
    """Return the steps that end equal parts of a training run, ascending; the last is `steps`."""
    return sorted({round(steps * part / parts) for part in range(1, parts + 1)} - {0})


@dataclass(frozen=True)
class Score:
    """The mean accuracy and loss over the images of a split.

    Attributes:
        top1: share of the images that are classified correctly.
        loss: cross-entropy in nats, without label smoothing.
    """

    top1: float
    loss: float


def observe(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Iterator[Observed]:
    """Run the model in eval mode on every image of a split, batch by batch, in a fixed order.

    Raises:
        NonFiniteError: a router's logits are not finite; the message names the layer and token.
    """
    model.eval()
    for pixels, labels in dataset.splits[split].batches(batch_size):
        images = normalise(pixels.to(device), dataset)
        with (
            naming_layer(model),
            torch.no_grad(),
            autocast(precision, device),
            forward_pass(model) as routings,
        ):
            logits = model(images)
        yield Observed(images, labels.to(device), logits.float(), routings)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Score:
    """Measure accuracy and loss on a split; leave the model in the mode that it was in."""
    was_training = model.training
    right = torch.zeros((), dtype=torch.long, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    observed = observe(
        model, dataset, split, batch_size=batch_size, device=device, precision=precision
    )
    for batch in observed:
        right += (batch.logits.argmax(-1) == batch.labels).sum()
        summed = F.cross_entropy(batch.logits, batch.labels, reduction="sum")
        loss += unless_refused(summed, batch.routings)
        seen += len(batch.labels)
    model.train(was_training)
    return Score(right.item() / seen, loss.item() / seen)
