"""The FLOPs of each training step, when routings decide how much work the experts do.

Counting a step operation by operation takes time, so only a few steps are counted. The others
differ from these only in the experts' work, if routings differ in size, as they do without a
capacity. That work is affine in the sizes (see `Experts.sizes`), so a few counts per layer give it
for any routing.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bench.compute.flops import FlopCounter
from bench.model import MoELayer
from routers import PaddedRouting, Routing

Sizes = tuple[int, ...]


class LayerWork(BaseModel):
    """The work of a layer's experts in a step, forward and backward, by the sizes of its routing.

    Attributes:
        sizes: sizes that were counted, none of which follows from the others.
        flops: FLOPs of the experts for each of them.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    sizes: list[Sizes] = []
    flops: list[float] = []

    def knows(self, sizes: Sizes) -> bool:
        """Tell whether the FLOPs for these sizes follow from the counted ones."""
        if not self.sizes or sizes in self.sizes:
            return bool(self.sizes)
        rest = _difference(sizes, self.sizes[0])
        return bool(np.allclose(self._spanned() @ self._shares(rest), rest, atol=1e-6))

    def learn(self, sizes: Sizes, flops: float) -> None:
        """Add a count."""
        self.sizes.append(sizes)
        self.flops.append(flops)

    def extra_flops(self, before: Sizes, after: Sizes) -> float:
        """Return how many more FLOPs `after` takes than `before`; both must be known."""
        shares = self._shares(_difference(after, before))
        return float(shares @ (np.array(self.flops[1:]) - self.flops[0]))

    def _spanned(self) -> NDArray[np.float64]:
        """Return the differences of the other sizes from the first, one per column."""
        rows = [_difference(each, self.sizes[0]) for each in self.sizes[1:]]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.sizes[0])).T

    def _shares(self, difference: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
        shares: NDArray[np.floating[Any]] = np.linalg.lstsq(self._spanned(), difference)[0]
        return shares


def _difference(after: Sizes, before: Sizes) -> NDArray[np.float64]:
    return np.array(after, dtype=float) - np.array(before, dtype=float)


class StepFlops(BaseModel):
    """The FLOPs of a model's training steps.

    Attributes:
        last: FLOPs of the last step.
        counted: FLOPs of the last counted step; None before the first.
        counted_sizes: its sizes, for each MoE layer; those of a batch's parts are summed.
        layers: the work of each MoE layer's experts, in network order.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    last: float = 0.0
    counted: float | None = None
    counted_sizes: list[Sizes] = []
    layers: list[LayerWork] = []

    def sizes_of(
        self, model: nn.Module, layers: Sequence[MoELayer], routings: Sequence[Routing]
    ) -> list[Sizes]:
        """Return the sizes of the routing of each of a model's MoE layers, in network order.

        Experts' work that does not follow from earlier counts is counted here.
        """
        self.layers += [LayerWork() for _ in range(len(layers) - len(self.layers))]
        all_sizes = []
        for layer, routing, work in zip(layers, routings, self.layers, strict=True):
            sizes = layer.experts.sizes(routing)
            if not work.knows(sizes):
                work.learn(sizes, experts_flops(layer, routing, _needs_gradient(model, layer)))
            all_sizes.append(sizes)
        return all_sizes

    def add(self, sizes: list[Sizes], counted: float | None = None) -> float:
        """Add a step by its `sizes_of` and return its FLOPs; the first step must be `counted`."""
        if counted is not None:
            self.counted, self.counted_sizes = counted, sizes
        assert self.counted is not None
        more = [
            work.extra_flops(before, after)
            for work, before, after in zip(self.layers, self.counted_sizes, sizes, strict=True)
            if before != after
        ]
        self.last = self.counted + round(sum(more))
        return self.last


def total_sizes(parts: Sequence[list[Sizes]]) -> list[Sizes]:
    """Sum the sizes of a batch's parts, layer by layer."""
    return [tuple(map(sum, zip(*layer, strict=True))) for layer in zip(*parts, strict=True)]


def experts_flops(layer: MoELayer, routing: Routing, input_gradient: bool) -> int:
    """Count the FLOPs of a layer's experts for a routing, forward and backward.

    The experts run on tokens of zeros; no gradient and no random state is changed.

    Args:
        input_gradient: whether the backward pass continues to earlier layers.
    """
    own, leaves = _leaf(routing)
    device = routing.gates.device
    x = torch.zeros(*routing.gates.shape[:2], *layer.token_shape, device=device)
    x.requires_grad_(input_gradient)
    learned = [parameter for parameter in layer.experts.parameters() if parameter.requires_grad]
    inputs = [*learned, *leaves, *([x] if input_gradient else [])]
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.enable_grad(), FlopCounter() as counter:
        y = layer.process(own, x)
        if y.requires_grad:
            torch.autograd.grad(y, inputs, torch.ones_like(y), allow_unused=True)
    return counter.total


def _leaf(routing: Routing) -> tuple[Routing, list[Tensor]]:
    """Copy a routing without its graph; return the copy and its tensors that need gradients."""
    own, leaves = copy(routing), list[Tensor]()
    if isinstance(routing, PaddedRouting):
        parts = []
        for part in routing.parts:
            inner, more = _leaf(part.routing)
            parts.append(replace(part, routing=inner))
            leaves += more
        object.__setattr__(own, "parts", tuple(parts))
    for name, value in vars(routing).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            leaf = value.detach().requires_grad_(value.requires_grad)
            object.__setattr__(own, name, leaf)
            if leaf.requires_grad:
                leaves.append(leaf)
    return own, leaves


def _needs_gradient(model: nn.Module, layer: MoELayer) -> bool:
    """Tell whether any module before the layer, in network order, is trained."""
    own = set(layer.parameters())
    before = takewhile(lambda parameter: parameter not in own, model.parameters())
    return any(parameter.requires_grad for parameter in before)
