"""How large a model is, and what it costs to run."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

import torch
from torch import nn

from bench.compute.flops import count_flops
from bench.model import moe_layers
from suites.subject import Observed


def model_facts(model: nn.Module, seen: Observed) -> dict[str, float]:
    """Single numbers of a model in eval mode.

    Args:
        model: dense, or with MoE layers.
        seen: a batch that it has run on.

    Returns:
        `params_total`; `params_active`: those that act on a token on average, where an expert's
        count by the slots that it runs for each token (1/E of the experts' for top-1 at capacity
        1, twice as much at capacity 2); `flops_per_image`: of the forward pass, on that batch;
        `slots_per_choice`: those that the experts run for each choice of a token, or for each
        token where tokens do not choose, used or not, mean over MoE layers; and `expert_facts`.
    """
    per_choice = []
    total = active = float(sum(parameter.numel() for parameter in model.parameters()))
    for layer, routing in zip(moe_layers(model).values(), seen.routings, strict=True):
        experts = sum(parameter.numel() for parameter in layer.experts.parameters())
        active -= experts * (1 - layer.experts.active_share(routing))
        tokens = routing.gates.shape[:2].numel()
        per_choice.append(routing.slot_count / (tokens * (routing.choices or 1)))
    with torch.no_grad():
        flops = count_flops(model, seen.images).total
    return {
        "params_total": total,
        "params_active": active,
        "flops_per_image": flops / len(seen.images),
        **({"slots_per_choice": fmean(per_choice)} if per_choice else {}),
        **expert_facts(model),
    }


def expert_facts(model: nn.Module) -> dict[str, float]:
    """What the experts tell of themselves (see `Experts.facts`), as means over MoE layers."""
    told: dict[str, list[float]] = defaultdict(list)
    for layer in moe_layers(model).values():
        for name, value in layer.experts.facts().items():
            told[name].append(value)
    return {name: fmean(values) for name, values in told.items()}
