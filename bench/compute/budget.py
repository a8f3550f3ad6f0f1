"""Matching compute: which quantity is equal for all routers, and how many steps that allows.

    total_flops  the FLOPs of a training run; they determine the number of steps
    step_flops   the FLOPs of a training step, by the width of the experts (`bench.plan.expand`)
    params       the parameters of the model, also by that width
    wall_clock   the seconds of training without evaluations; they determine the number of steps
    steps        only the number of steps

The budget is what the recipe's dense model, which has no MoE layers, has or spends in the recipe's
epochs; for wall_clock it is the requested seconds. It thus depends on no router. If it does not
determine the number of steps, every router takes as many as the dense model. The FLOPs of a
training step are those of the forward and backward pass of the model and the losses, plus, for
routers that try experts after some steps, the cost of that averaged over the steps. The optimiser,
clipping and weight averaging are left out, as is usual, since they depend only on the parameters,
not on tokens. If the work of a step depends on the data, the number of steps is an estimate, and
training with a FLOPs budget ends when the budget is spent.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from bench.compute.flops import FlopCounter, count_flops
from bench.config import Match, TrainConfig, TrialSpec
from bench.model import losses_for, moe_layers
from suites.support.subject import Observed


@dataclass(frozen=True)
class Cost:
    """The FLOPs of a model's training step, and its number of parameters."""

    flops: float
    parameters: int


@dataclass(frozen=True)
class ComputeUsed:
    """The compute that a training run has used so far, without evaluations.

    A budget of seconds may be missed by up to `segment_seconds`, those of the last segment.
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
        amount: how much of that quantity a trial may use.
        tolerance: how far training may miss the amount, as a share of it.
        flops_budget: FLOPs that the dense model spends in the recipe's epochs.
        dense_steps: steps of the dense model in the recipe's epochs.
        dense: cost of the dense model's step.
        steps: steps of the trial; for total_flops an estimate from the first step, for wall_clock
            None.
        own: cost of the trial's model, with the FLOPs of its first step, which every step takes
            unless the work depends on the data.
    """

    match: Match
    amount: float
    tolerance: float
    flops_budget: float
    dense_steps: int
    dense: Cost
    steps: int | None
    own: Cost

    def error(self, used: ComputeUsed) -> float:
        """Return by how much training missed the budget, as a signed share of it."""
        return self._matched(used) / self.amount - 1

    def met_by(self, used: ComputeUsed) -> bool:
        """Tell whether training met the budget to within its tolerance, one step or one segment."""
        granted = {"total_flops": self.own.flops, "wall_clock": used.segment_seconds}.get(
            self.match, 0.0
        )
        missed = abs(self._matched(used) - self.amount)
        return missed <= max(self.tolerance * self.amount, granted)

    def _matched(self, used: ComputeUsed) -> float:
        return {
            "total_flops": used.flops,
            "step_flops": used.flops / max(1, used.steps),
            "params": float(self.own.parameters),
            "wall_clock": used.seconds,
            "steps": float(used.steps),
        }[self.match]


def match_compute(
    spec: TrialSpec, num_samples: int, cost_of: Callable[[TrialSpec], Cost]
) -> Budget:
    """Compute the budget of a trial.

    For "total_flops", the number of steps (at least one) is the one that comes nearest to the
    budget if every step takes the FLOPs of the first.

    Args:
        num_samples: number of images in the training split.
        cost_of: measures the model of the trial and of its dense counterpart.
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


def trial_flops(model: nn.Module, images: Tensor, labels: Tensor, train: TrainConfig) -> int:
    """Count the FLOPs that routers spend on trying experts on a batch, averaged over the steps.

    Args:
        images: (n, c, h, w) float, normalised.
        labels: (n,) long.
    """
    flops = 0.0
    for layer in moe_layers(model).values():
        if trials := layer.router.trials:
            with FlopCounter() as counter:
                losses_for(model, layer, images, labels, train)
            flops += counter.total / trials.every
    return round(flops)


def parameters_of(model: nn.Module) -> int:
    """Count all parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_stats(model: nn.Module, seen: Observed) -> dict[str, float]:
    """Compute scalar statistics of a model in eval mode from a batch that it has run on.

    Returns:
        `params_total`; `params_active`: parameters that act on a token on average, where experts'
        parameters are weighted by the slots that they run per token (1/E of them for top-1 at
        capacity 1, twice as much at capacity 2); `flops_per_image`: of the forward pass on that
        batch; `slots_per_choice`: slots that the experts run, used or not, per choice of a token,
        or per token if tokens do not choose, averaged over MoE layers; and `expert_stats`.
    """
    per_choice = []
    total = active = float(parameters_of(model))
    for layer, routing in zip(moe_layers(model).values(), seen.routings, strict=True):
        active -= parameters_of(layer.experts) * (1 - layer.experts.active_share(routing))
        tokens = routing.gates.shape[:2].numel()
        per_choice.append(layer.experts.slots(routing) / (tokens * (routing.choices or 1)))
    with torch.no_grad():
        flops = count_flops(model, seen.images).total
    return {
        "params_total": total,
        "params_active": active,
        "flops_per_image": flops / len(seen.images),
        **({"slots_per_choice": fmean(per_choice)} if per_choice else {}),
        **expert_stats(model),
    }


def expert_stats(model: nn.Module) -> dict[str, float]:
    """Average the experts' statistics (see `Experts.stats`) over the MoE layers."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for layer in moe_layers(model).values():
        for name, value in layer.experts.stats().items():
            by_name[name].append(value)
    return {name: fmean(values) for name, values in by_name.items()}
