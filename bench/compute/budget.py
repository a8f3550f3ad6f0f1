"""Matching compute: how many steps a router gets.

The budget is what the dense model of a recipe, the one without MoE layers, spends in the recipe's
epochs. So it depends on no router. FLOPs of a training step are those of the forward and backward
pass of the model and the losses; the optimiser, the clipping and the averaging of weights are left
out, as is usual: they depend on the parameters alone, and on no token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bench.batches import TrainingBatches
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset
from bench.trainer import Trainer


@dataclass(frozen=True)
class Budget:
    """Of one trial.

    Attributes:
        flops_budget: FLOPs that the dense model spends in the recipe's epochs.
        dense_steps: its steps.
        dense_flops_per_step: FLOPs of each.
        steps: those of the trial.
        flops_per_step: FLOPs of the trial's first step; of every step, unless the work depends
            on the data.
        tolerance: FLOPs by which the trial may miss the budget.
    """

    flops_budget: float
    dense_steps: int
    dense_flops_per_step: float
    steps: int
    flops_per_step: float
    tolerance: float

    @property
    def relative_error(self) -> float:
        """By how much `steps` such steps miss the budget."""
        return self.steps * self.flops_per_step / self.flops_budget - 1

    def met_by(self, flops: float) -> bool:
        """Whether FLOPs spent are those of the budget."""
        return abs(flops - self.flops_budget) <= self.tolerance


def match_compute(
    spec: TrialSpec, num_samples: int, flops_of_step: Callable[[TrialSpec], float]
) -> Budget:
    """The steps of a trial.

    `compute.match` is "total_flops" (the number of steps whose FLOPs come nearest to the budget,
    at least one) or "steps" (as many as the dense model takes).

    Args:
        spec: the trial.
        num_samples: images of the training split.
        flops_of_step: FLOPs of a training step, of the trial and of its dense counterpart.
    """
    dense_steps = max(1, round(spec.train.epochs * num_samples / spec.train.batch_size))
    dense, own = flops_of_step(spec.dense()), flops_of_step(spec)
    budget = dense * dense_steps
    steps = dense_steps if spec.compute.match == "steps" else max(1, round(budget / own))
    # Within 1 %, or one step where that is more.
    tolerance = max(spec.compute.tolerance * budget, own)
    return Budget(budget, dense_steps, dense, steps, own, tolerance)


def resolve_steps(
    spec: TrialSpec,
    dataset: Dataset,
    batches: TrainingBatches,
    device: torch.device,
    parent: nn.Module | None = None,
    micro_batches: int = 1,
) -> Budget:
    """The steps of a trial, from the FLOPs that its first step takes where it will train.

    Args:
        spec: the trial.
        dataset: what it trains on.
        batches: of its training split, on `device`.
        device: where it trains.
        parent: see `starting_model`; a step of what is frozen in part takes fewer FLOPs.
        micro_batches: see `Trainer`; they change no FLOPs.
    """

    def flops_of_step(of: TrialSpec) -> float:
        counter = FlopCounter()
        trainer = Trainer(of, dataset, batches, device, 1, parent, micro_batches)
        trainer.step(0, counter)
        return counter.report().total - trainer.overhead

    return match_compute(spec, len(dataset.splits["train"]), flops_of_step)
