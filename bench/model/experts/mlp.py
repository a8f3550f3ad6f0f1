"""Stacked two-layer MLPs, one for each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.replaced import Replaced, ReplacedMLP
from routers import hyper


@register_experts("mlp", family="mlp", source="arXiv 1701.06538")
class MLPExperts(Experts):
    """Each expert is an MLP of the shape that it replaces, or of `hidden` units.

    The experts' weights are stacked, so that all of them run as two batched matrix products.
    Cost: E times the parameters of the MLP; 4 · d · hidden FLOPs a slot.
    """

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


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply each expert's affine map: (E, g, s, i) by (E, i, o) and (E, 1, o) to (E, g, s, o)."""
    rows = x.flatten(1, 2)
    y = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
    return y.unflatten(1, x.shape[1:3])
