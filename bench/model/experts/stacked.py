"""Experts with separate weights, stacked so that all of them run as one batched product."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.model.classifier import feature_sizes
from bench.model.experts.base import Experts, register_experts
from bench.model.experts.packed import Packed, packed_dtype
from bench.model.experts.replaced import Replaced, ReplacedLinear, ReplacedMLP, ReplacedNetwork
from routers import Routing, TokenChoiceRouting, hyper


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply each expert's affine map: (E, g, s, i), (E, i, o), (E, 1, o) -> (E, g, s, o)."""
    rows = x.flatten(1, 2)
    y = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
    return y.unflatten(1, x.shape[1:3])


def uniform(shape: tuple[int, ...], inputs: int) -> nn.Parameter:
    """Return a parameter initialised uniformly in ±1 / √inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))


@register_experts("mlp", family="mlp", source="arXiv 1701.06538")
class MLPExperts(Experts):
    """Each expert is an MLP of the shape of the replaced one, or with `hidden` units.

    The experts' weights are stacked, so that all of them run as two batched matrix products.
    If nothing is dropped, in bfloat16 on a GPU, they run on packed rows of tokens instead.
    Cost: E times the parameters of the MLP; 4 · d · hidden FLOPs per slot, or per row.
    """

    stacked = True
    width = "hidden"

    hidden: int | None = hyper(None, "Hidden units of an expert; none keeps the MLP's.", ge=1)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedMLP)  # as `replaces` says
        width, hidden = replaced.dim, self.hidden or replaced.hidden
        self.hidden_width = hidden
        self.activation = replaced.activation()
        self.drop1, self.drop2 = (nn.Dropout(p) for p in replaced.dropout)
        self.weight1 = nn.Parameter(torch.empty(num_experts, width, hidden))
        self.weight2 = nn.Parameter(torch.empty(num_experts, hidden, width))
        nn.init.normal_(self.weight1, std=replaced.std[0])
        nn.init.normal_(self.weight2, std=replaced.std[1])
        # A bias for each expert, shared by its slots.
        shapes = ((num_experts, 1, hidden), (num_experts, 1, width))
        self.bias1, self.bias2 = (
            nn.Parameter(torch.zeros(shape)) if replaced.bias else None for shape in shapes
        )

    def activations(self, slot_inputs: Tensor) -> Tensor:
        dropped: Tensor = self.drop1(self.activation(affine(slot_inputs, self.weight1, self.bias1)))
        return dropped

    def outputs(self, activations: Tensor) -> Tensor:
        dropped: Tensor = self.drop2(affine(activations, self.weight2, self.bias2))
        return dropped

    def by_slot(self, routing: Routing, x: Tensor) -> Tensor:
        dtype = packed_dtype(routing, x, self.hidden_width)
        if dtype is None:
            return super().by_slot(routing, x)
        assert isinstance(routing, TokenChoiceRouting)  # as `packed_dtype` says
        packed = Packed.of(routing)
        rows = packed.dispatch(x).to(dtype)
        hidden = self.drop1(self.activation(packed.affine(rows, self.weight1, self.bias1)))
        out = self.drop2(packed.affine(hidden, self.weight2, self.bias2))
        return packed.combine(out, routing)


@register_experts("linear", family="linear", source="arXiv 1701.06538")
class LinearExperts(Experts):
    """Each expert is a linear layer of the shape of the replaced one, such as a classifier's last.

    Cost: E times the parameters of the layer; 2 · d · outputs FLOPs per slot.
    """

    replaces = (ReplacedLinear,)
    stacked = True

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedLinear)  # as `replaces` says
        self.weight = nn.Parameter(torch.empty(num_experts, replaced.dim, replaced.outputs))
        nn.init.normal_(self.weight, std=replaced.std)
        bias = torch.zeros(num_experts, 1, replaced.outputs)
        self.bias = nn.Parameter(bias) if replaced.bias else None

    def forward(self, slot_inputs: Tensor) -> Tensor:
        return affine(slot_inputs, self.weight, self.bias)


@register_experts("classifier", family="network", source="Jacobs et al. 1991, arXiv 2302.14703")
class ClassifierExperts(Experts):
    """Each expert is a whole network like the replaced one, from images to class probabilities.

    The experts' weights are stacked, and their convolutions run as one grouped convolution. Outputs
    are probabilities, so that a mixture of experts is a mixture of their distributions.
    Cost: E networks. Weights are initialised like those of torch's own layers.
    """

    replaces = (ReplacedNetwork,)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedNetwork)  # as `replaces` says
        self.hidden_width = replaced.widths[-1]
        self.kernel = self.kernel_bias = None
        if replaced.channels:
            image_channels = replaced.token_shape[0]
            shape = (num_experts * replaced.channels, image_channels, 3, 3)
            self.kernel = uniform(shape, 9 * image_channels)
            self.kernel_bias = uniform(shape[:1], 9 * image_channels)
        sizes = feature_sizes(replaced.token_shape, replaced.channels, replaced.widths)
        layers = list(pairwise([*sizes, replaced.classes]))
        self.weights = nn.ParameterList(uniform((num_experts, i, o), i) for i, o in layers)
        self.biases = nn.ParameterList(uniform((num_experts, 1, o), i) for i, o in layers)

    def activations(self, slot_inputs: Tensor) -> Tensor:
        x = self._features(slot_inputs)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = affine(x, weight, bias).relu()
        return x

    def outputs(self, activations: Tensor) -> Tensor:
        return affine(activations, self.weights[-1], self.biases[-1]).softmax(-1)

    def _features(self, slot_inputs: Tensor) -> Tensor:
        """Map (E, g, s, c, h, w) -> (E, g, s, features), by the convolution if there is one."""
        if self.kernel is None:
            return slot_inputs.flatten(3)
        experts, groups, slots = slot_inputs.shape[:3]
        # The experts' images side by side, as channels of one image: (g·s, E·c, h, w).
        images = slot_inputs.flatten(1, 2).transpose(0, 1).flatten(1, 2)
        seen = F.conv2d(images, self.kernel, self.kernel_bias, groups=experts).relu()
        pooled = F.max_pool2d(seen, 2).unflatten(1, (experts, -1))
        return pooled.transpose(0, 1).flatten(2).unflatten(1, (groups, slots))
