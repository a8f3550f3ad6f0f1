"""Pruning: a model with fewer experts, each of them one expert or a mean of experts of another.

Axes: E experts of the larger model, k of the smaller one. A matrix (k, E) describes the pruning of
a layer: row i holds the shares that the larger model's experts have in expert i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from bench.data import Dataset
from bench.model.build import register_transform
from bench.model.calibration import Calibration
from bench.model.moe import MoELayer, moe_layers
from routers import Router
from routers.affinity import Affinity
from routers.errors import RequestError, UndefinedError

Rule = Callable[[Calibration, int], list[Tensor]]
"""Returns, for a model and k, the matrix (k, E) of each of its MoE layers, in network order."""
RULES: dict[str, Rule] = {}
"""Pruning rules by the name of their transform, which prunes a trial's parent."""


@torch.no_grad()
def prune(parent: nn.Module, child: nn.Module, shares: Sequence[Tensor]) -> None:
    """Give a model the weights of one with more experts, combining that one's experts and gates.

    Args:
        parent: the model with more experts; it is not changed.
        child: a model that differs only in the number of experts; it is changed in place.
        shares: (k, E) of each MoE layer, in network order.

    Raises:
        UndefinedError: the experts are not stacks, or the router is undefined on a subset of them.
        RequestError: anything besides the experts differs.
    """
    layers, smaller = moe_layers(parent), moe_layers(child)
    if not layers or layers.keys() != smaller.keys():
        raise RequestError(
            f"the parent's MoE layers are {', '.join(layers) or 'none'}, the child's "
            f"{', '.join(smaller) or 'none'}: to prune experts, give the child its parent's layers"
        )
    for old, new in zip(layers.values(), smaller.values(), strict=True):
        refuse_undefined(old)
        _refuse_other_gate(old.router, new.router)
    by_layer = dict(zip(layers, shares, strict=True))
    source = parent.state_dict()
    for name, tensor in child.state_dict().items():
        joined = source.get(name)
        layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        if joined is not None and layer is not None:
            joined = _joined(joined, tensor.shape, by_layer[layer])
        if joined is None or joined.shape != tensor.shape:
            raise RequestError(
                f"{name!r} has no counterpart in the parent: give the child the model, data, "
                "experts and router of its parent, and fewer experts"
            )
        tensor.copy_(joined)


def refuse_undefined(layer: MoELayer) -> None:
    """Raise `UndefinedError` if a layer is undefined with only some of its experts."""
    experts, router = layer.experts, layer.router
    if not experts.stacked:
        raise UndefinedError(
            f"experts {experts.name!r} cannot be pruned: they are not a stack of weights, one each"
        )
    if not router.prunable:
        raise UndefinedError(
            f"router {_name(router)!r} cannot be pruned: the number and order of its experts are "
            "part of what it computes"
        )


def _refuse_other_gate(old: Router, new: Router) -> None:
    """Raise an error if the gates' inner sizes differ because the numbers of experts do."""
    own, now = old.options_with(new.num_experts), new.options_with(new.num_experts)
    for name in ("affinity", "affinity_options", "num_slots"):
        if own.get(name) != now.get(name):
            raise RequestError(
                f"router.{name} = {now[name]}, but the parent has {own[name]}: to prune experts, "
                f"set router.{name} to the parent's value"
            )


def _name(router: Router) -> str:
    return str(getattr(router, "name", type(router).__name__))


def _joined(tensor: Tensor, shape: torch.Size, shares: Tensor) -> Tensor:
    """Combine the experts' parts along each axis whose size is proportional to their number."""
    kept, experts = shares.shape
    for axis, (before, after) in enumerate(zip(tensor.shape, shape, strict=False)):
        each = before // experts
        if before != after and (before, after) == (each * experts, each * kept):
            parts = tensor.movedim(axis, 0).unflatten(0, (experts, each))
            tensor = _mixed(shares.to(tensor.device), parts).flatten(0, 1).movedim(0, axis)
    return tensor


def _mixed(shares: Tensor, parts: Tensor) -> Tensor:
    """Mix (E, …) to (k, …): weighted means of floats, sums of integers, "any" of booleans."""
    if parts.is_floating_point():
        return torch.tensordot(shares.to(parts.dtype), parts, 1)
    return torch.tensordot((shares > 0).long(), parts.long(), 1)


def pruning_rule(name: str, source: str) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule and the transform that prunes a parent by it."""

    def decorate(rule: Rule) -> Rule:
        @wraps(rule)
        def transform(parent: nn.Module, child: nn.Module, *, calibration: Calibration) -> None:
            layers = list(moe_layers(child).values())
            kept = layers[0].router.num_experts if layers else 0
            prune(parent, child, shares_by(name, calibration, kept))

        register_transform(name, family="pruning", source=source)(transform)
        RULES[name] = rule
        return rule

    return decorate


def shares_by(name: str, calibration: Calibration, kept: int) -> list[Tensor]:
    """Apply a rule: return the matrix (k, E) of each MoE layer of the calibration's model.

    Raises:
        UndefinedError: the rule is undefined for the router.
        RequestError: k is below 1 or above the number of its experts.
    """
    experts = [layer.router.num_experts for layer in calibration.layers]
    if any(kept > each or kept < 1 for each in experts):
        raise RequestError(f"cannot keep {kept} of {max(experts)} experts")
    if not isinstance(calibration.data, Dataset):  # which ones does not matter for costs
        return [torch.eye(each)[:kept] for each in experts]
    return RULES[name](calibration, kept)


def _highest(scores: Tensor, kept: int) -> Tensor:
    """Keep the experts with the highest scores, (E,), the first among equals: (k, E)."""
    order = scores.argsort(descending=True, stable=True)[:kept]
    return torch.eye(len(scores))[order.sort().values]


@pruning_rule("prune_router_change", source="arXiv 2405.16646")
def router_change(calibration: Calibration, kept: int) -> list[Tensor]:
    """Keep the experts whose gate vectors have changed most in length since the start.

    Score: | ‖w_e‖ − ‖w_e at the start‖ |. The start is before the first training step: the initial
    weights or, for a derived trial, its parent's.
    """
    before = moe_layers(calibration.start()).values()
    return [
        _highest((_lengths(now) - _lengths(then.router)).abs(), kept)
        for now, then in zip([each.router for each in calibration.layers], before, strict=True)
    ]


def _lengths(router: Router) -> Tensor:
    vectors = router.gate.output() if isinstance(router.gate, Affinity) else None
    if vectors is None or not vectors.requires_grad or len(vectors) % router.num_experts:
        raise UndefinedError(
            f"router {_name(router)!r} has no vector per expert whose length is learned"
        )
    return vectors.detach().cpu().double().view(router.num_experts, -1).norm(dim=1)


@pruning_rule("prune_count", source="arXiv 2404.05089")
def token_count(calibration: Calibration, kept: int) -> list[Tensor]:
    """Keep the experts that most calibration tokens choose, before any are dropped."""
    if any(use.constant for use in calibration.uses):
        name = _name(calibration.layers[0].router)
        raise UndefinedError(f"router {name!r} gives all experts the same number of tokens")
    return [_highest(torch.as_tensor(use.count), kept) for use in calibration.uses]


@pruning_rule("prune_gate_mass", source="arXiv 2404.05089")
def gate_mass(calibration: Calibration, kept: int) -> list[Tensor]:
    """Keep the experts with the largest sum of gates over the calibration tokens."""
    return [_highest(torch.as_tensor(use.mass), kept) for use in calibration.uses]


@pruning_rule("prune_random", source="null")
def at_random(calibration: Calibration, kept: int) -> list[Tensor]:
    """Keep experts drawn at random, independently in each layer."""
    generator = torch.Generator().manual_seed(calibration.seed)
    numbers = [layer.router.num_experts for layer in calibration.layers]
    return [_highest(torch.rand(each, generator=generator), kept) for each in numbers]


@pruning_rule("merge_outputs", source="arXiv 2407.09590")
def merge_by_outputs(calibration: Calibration, kept: int) -> list[Tensor]:
    """Merge experts whose outputs on the same tokens are similar, by linear CKA.

    All experts get the layer's inputs of the first calibration images, whatever the router does.
    """
    merged = []
    for layer, use in zip(calibration.layers, calibration.uses, strict=True):
        tokens = torch.cat(use.inputs).flatten(0, -1 - len(layer.token_shape))
        with torch.no_grad():
            slots = tokens.expand(layer.router.num_experts, 1, *tokens.shape)
            outputs = layer.experts(slots).flatten(3).squeeze(1).double()
        # Rounding may raise the similarity of equal experts above 1.
        merged.append(_groups((1 - linear_cka(outputs)).clamp(min=0), kept))
    return merged


@pruning_rule("merge_weights", source="arXiv 2407.09590")
def merge_by_weights(calibration: Calibration, kept: int) -> list[Tensor]:
    """Merge experts whose weights are close, by their mean squared difference."""
    merged = []
    for layer in calibration.layers:
        parts = [weight.detach().double().flatten(1) for weight in layer.experts.parameters()]
        flat = torch.cat(parts, 1)
        squared = torch.stack([(each - flat).square().mean(1) for each in flat])
        merged.append(_groups(squared, kept))
    return merged


def linear_cka(outputs: Tensor) -> Tensor:
    """Compute ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred outputs: (E, n, d) -> (E, E)."""
    centred = outputs - outputs.mean(1, keepdim=True)
    cross = torch.stack([(each.T @ centred).square().sum((1, 2)) for each in centred])
    own = cross.diagonal().sqrt()
    similarity: Tensor = cross / (own.unsqueeze(1) * own).clamp(min=1e-300)
    return similarity


def _groups(distances: Tensor, kept: int) -> Tensor:
    """Cluster experts into k groups by average linkage of (E, E) distances: means, (k, E)."""
    experts = len(distances)
    if kept == experts:
        return torch.eye(experts)
    square = distances.cpu().numpy()
    condensed = squareform((square + square.T) / 2, checks=False)
    label = cut_tree(linkage(condensed, "average"), n_clusters=[kept]).ravel()
    first = sorted(range(kept), key=lambda group: int(np.argmax(label == group)))
    members = torch.from_numpy(np.stack([label == group for group in first])).float()
    return members / members.sum(1, keepdim=True)
