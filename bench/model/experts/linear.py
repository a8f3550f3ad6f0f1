"""Stacked linear layers, one for each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.mlp import affine
from bench.model.experts.replaced import Replaced, ReplacedLinear


@register_experts("linear", family="linear", source="arXiv 1701.06538")
class LinearExperts(Experts):
    """Each expert is a linear layer of the shape that it replaces, such as a classifier's last.

    Cost: E times the parameters of the layer; 2 · d · outputs FLOPs a slot.
    """

    replaces = (ReplacedLinear,)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedLinear)  # as `replaces` says
        self.weight = nn.Parameter(torch.empty(num_experts, replaced.dim, replaced.outputs))
        nn.init.normal_(self.weight, std=replaced.std)
        bias = torch.zeros(num_experts, 1, replaced.outputs)
        self.bias = nn.Parameter(bias) if replaced.bias else None

    def forward(self, slot_inputs: Tensor) -> Tensor:
        return affine(slot_inputs, self.weight, self.bias)
