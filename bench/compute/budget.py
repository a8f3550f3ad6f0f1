"""Matching compute: what every router is given the same of, and how many steps that makes.

    total_flops  the FLOPs of a training; the number of steps follows
    step_flops   the FLOPs of a training step, by the width of the experts (`bench.plan.expand`)
    params       the parameters of the model, by that width too
    wall_clock   the seconds of a training, evaluations left out; the number of steps follows
    steps        the number of steps alone

The budget is what the dense model of a recipe, the one without MoE layers, has or spends in the
recipe's epochs, and of seconds those that were asked for. So it depends on no router. Where the
number of steps does not follow from it, every router takes as many as the dense model. FLOPs of a
training step are those of the forward and backward pass of the model and the losses; the optimiser,
the clipping and the averaging of weights are left out, as is usual: they depend on the parameters
alone, and on no token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bench.config import Match, TrialSpec


@dataclass(frozen=True)
class Cost:
    """The FLOPs of a training step of a model, and its number of parameters."""

    flops: float
    parameters: int


@dataclass(frozen=True)
class ComputeSpent:
    """The compute that a training has spent so far.

    Attributes:
        flops: FLOPs of its steps.
        steps: optimiser steps.
        seconds: time of its steps.
        segment_seconds: time of its last segment, by which a budget of seconds may be missed.
    """

    flops: float
    steps: int
    seconds: float
    segment_seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """The compute budget of one trial.

    Attributes:
        match: the quantity that is matched between routers.
        amount: the budget of that quantity.
        tolerance: relative, see `ComputeConfig`.
        flops_budget: FLOPs that the dense model spends in the recipe's epochs.
        dense_steps: steps of the dense model.
        dense: cost of the dense model.
        steps: steps of the trial; None where seconds decide.
        own: cost of the trial's model, with the FLOPs of its first step; they are those of every
            step, unless the work depends on the data.
    """

    match: Match
    amount: float
    tolerance: float
    flops_budget: float
    dense_steps: int
    dense: Cost
    steps: int | None
    own: Cost

    def error(self, spent: ComputeSpent) -> float:
        """Return by how much a training missed the budget, as a share of it."""
        return self._matched(spent) / self.amount - 1

    def met_by(self, spent: ComputeSpent) -> bool:
        """Tell whether a training met the budget, to its tolerance or to one step or segment."""
        granted = {"total_flops": self.own.flops, "wall_clock": spent.segment_seconds}.get(
            self.match, 0.0
        )
        missed = abs(self._matched(spent) - self.amount)
        return missed <= max(self.tolerance * self.amount, granted)

    def _matched(self, spent: ComputeSpent) -> float:
        return {
            "total_flops": spent.flops,
            "step_flops": spent.flops / max(1, spent.steps),
            "params": float(self.own.parameters),
            "wall_clock": spent.seconds,
            "steps": float(spent.steps),
        }[self.match]


def match_compute(
    spec: TrialSpec, num_samples: int, cost_of: Callable[[TrialSpec], Cost]
) -> Budget:
    """Compute the budget of a trial.

    For "total_flops", the trial gets the number of steps whose FLOPs are nearest to the budget, at
    least one.

    Args:
        spec: the trial.
        num_samples: images of the training split.
        cost_of: measures the cost of a trial's model; called for the trial and for its dense
            counterpart.
    """
    dense_steps = max(1, round(spec.train.epochs * num_samples / spec.train.batch_size))
    dense, own = cost_of(spec.dense()), cost_of(spec)
    match, flops = spec.compute.match, dense.flops * dense_steps
    amounts = {
        "total_flops": flops,
        "step_flops": dense.flops,
        "params": float(dense.parameters),
        "wall_clock": spec.compute.seconds or 0.0,
        "steps": float(dense_steps),
    }
    steps: int | None = dense_steps
    if match == "total_flops":
        steps = max(1, round(flops / own.flops))
    if match == "wall_clock":
        steps = None
    tolerance = spec.compute.tolerance
    return Budget(match, amounts[match], tolerance, flops, dense_steps, dense, steps, own)


def parameters_of(model: nn.Module) -> int:
    """Count all parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
