"""Matching compute: what every router is given the same of, and how many steps that makes.

    total_flops  the FLOPs of a training; the number of steps follows
    step_flops   the FLOPs of a training step, by the width of the experts (`bench.plan.expand`)
    params       the parameters of the model, by that width too
    wall_clock   the seconds of a training, evaluations left out; the number of steps follows
    steps        the number of steps alone

The budget is what the dense model of a recipe, the one without MoE layers, has or spends in the
recipe's epochs, and of seconds those that were asked for. So it depends on no router. Where the
number of steps does not follow from it, every router takes as many as the dense model. FLOPs of a
training step are those of the forward and backward pass of the model and the losses, and of routers
that try experts after some steps their mean over the steps. The optimiser, the clipping and the
averaging of weights are left out, as is usual: they depend on the parameters alone, and on no
token. Where the data decide the work of a step, the number of steps is an estimate, and a training
to an amount of FLOPs ends when it has spent them.
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
    """The FLOPs of a training step of a model, and its number of parameters."""

    flops: float
    parameters: int


@dataclass(frozen=True)
class ComputeUsed:
    """The compute that a training has used so far, evaluations left out.

    A budget of seconds may be missed by those of the last segment.
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
        tolerance: how far a training may miss the amount, as a share of it.
        flops_budget: FLOPs that the dense model spends in the recipe's epochs.
        dense_steps: steps of the dense model in the recipe's epochs.
        dense: cost of the dense model, of a step.
        steps: steps of the trial, of an amount of FLOPs an estimate by the first one; None where
            seconds decide.
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

    def error(self, used: ComputeUsed) -> float:
        """Return by how much a training missed the budget, as a share of it."""
        return self._matched(used) / self.amount - 1

    def met_by(self, used: ComputeUsed) -> bool:
        """Tell whether a training met the budget, to its tolerance or to one step or segment."""
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

    For "total_flops" the number of steps is the one whose FLOPs would be nearest to the budget, at
    least one, if each took those of the first.

    Args:
        num_samples: images of the training split.
        cost_of: measures the model of the trial, and of its dense counterpart.
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
    """Count what routers spend on trying experts on a batch, spread over the steps.

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
    """Compute single numbers that describe a model in eval mode, by a batch that it has run on.

    Returns:
        `params_total`; `params_active`: those that act on a token on average, where an expert's
        count by the slots that it runs for each token (1/E of the experts' for top-1 at capacity
        1, twice as much at capacity 2); `flops_per_image`: of the forward pass, on that batch;
        `slots_per_choice`: those that the experts run for each choice of a token, or for each
        token where tokens do not choose, used or not, mean over MoE layers; and `expert_stats`.
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
    """Average the statistics of the experts (see `Experts.stats`) over MoE layers."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for layer in moe_layers(model).values():
        for name, value in layer.experts.stats().items():
            by_name[name].append(value)
    return {name: fmean(values) for name, values in by_name.items()}
