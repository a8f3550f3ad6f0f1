"""How long a training takes, from a few of its steps."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from bench.batches import TrainingBatches
from bench.compute.budget import resolve_budget
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset
from bench.evaluate import evaluate
from bench.forecast.clock import Clock
from bench.forecast.part import part_of
from bench.trainer import Trainer

WARM_UP = 2
"""Steps after the first that are not timed."""
STEPS, SECONDS = 5, 1.5
"""Steps that are timed, and seconds that they last, at least."""
EVALUATED = 1000
"""Images of the validation split that an evaluation is timed on."""


@dataclass(frozen=True)
class Pace:
    """Of one training, in seconds.

    Attributes:
        start: to build the model and count its FLOPs, and the first step.
        steps: those of the whole training.
        step: each of them.
        counted: one whose FLOPs are counted, as before each evaluation.
        image: to evaluate one image.
    """

    start: float
    steps: int
    step: float
    counted: float
    image: float

    def whole(self, evaluations: int, images: int) -> float:
        """Seconds of a training with so many evaluations on so many images."""
        counted = min(evaluations, self.steps)
        each = self.counted + images * self.image
        return self.start + (self.steps - counted) * self.step + counted * each


def begin(
    spec: TrialSpec,
    dataset: Dataset,
    device: torch.device,
    parent: nn.Module | None,
    clock: Clock,
) -> tuple[Pace, nn.Module]:
    """Train for a few steps.

    Args:
        spec: the trial.
        dataset: what it trains on.
        device: where it trains.
        parent: a model of the trial that this one is derived from; it need not be trained.
        clock: of the device.

    Returns:
        What they took, and the model after them.
    """
    with closing(TrainingBatches(spec, dataset, device)) as batches:
        began = clock.now()
        budget = resolve_budget(spec, dataset, batches, device, parent)
        steps = budget.steps or budget.dense_steps
        trainer = Trainer(spec, dataset, batches, device, steps, parent)
        trainer.step(0)
        start = clock.now() - began
        step = _seconds_of_step(trainer, steps, clock)
        counted = clock.seconds(lambda: trainer.step(0, FlopCounter()))
    image = _seconds_of_image(spec, trainer.model, dataset, device, clock)
    return Pace(start, budget.steps_at(step), step, counted, image), trainer.model


def _seconds_of_step(trainer: Trainer, steps: int, clock: Clock) -> float:
    for step in range(WARM_UP):
        trainer.step(step % steps)
    began, taken = clock.now(), 0
    while taken < STEPS or clock.now() - began < SECONDS:
        trainer.step((WARM_UP + taken) % steps)
        taken += 1
    return (clock.now() - began) / taken


def _seconds_of_image(
    spec: TrialSpec, model: nn.Module, dataset: Dataset, device: torch.device, clock: Clock
) -> float:
    size, precision = spec.train.batch_size, spec.train.precision
    some = part_of(dataset, EVALUATED / len(dataset.splits["val"]), size)
    seconds = clock.seconds(
        lambda: evaluate(model, some, "val", batch_size=size, device=device, precision=precision)
    )
    return seconds / len(some.splits["val"])
