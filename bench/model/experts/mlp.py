"""Stacked two-layer MLPs, one for each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, ReplacedMLP, register_experts
from routers import hyper


@register_experts("mlp", family="mlp", source="arXiv 1701.06538")
class MLPExperts(Experts):
    """Each expert is an MLP of the shape that it replaces, or of `hidden` units.

    The experts' weights are stacked, so that all of them run as two batched matrix products.
    Cost: E times the parameters of the MLP; 4 · d · hidden FLOPs a slot.
    """

    hidden: int | None = hyper(None, "Hidden units of an expert; none keeps the MLP's.", ge=1)

    def __init__(self, num_experts: int, replaced: ReplacedMLP, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        width, hidden = replaced.dim, self.hidden or replaced.hidden
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

    def forward(self, slot_inputs: Tensor) -> Tensor:
        experts, groups, slots, width = slot_inputs.shape
        x = slot_inputs.reshape(experts, groups * slots, width)
        hidden = self.drop1(self.activation(_affine(x, self.weight1, self.bias1)))
        return self.drop2(_affine(hidden, self.weight2, self.bias2)).view(slot_inputs.shape)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
