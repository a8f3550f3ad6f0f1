"""Experts of one weight tensor in CP form: a sum of R rank-one tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from bench.model.experts.base import register_experts
from bench.model.experts.factorised import FactorisedExperts, FactorisedLayer, Size, spreads


@register_experts("cp", family="factorised", source="arXiv 2402.12550")
class CPExperts(FactorisedExperts):
    """μMoE with CP factors: W[n, i, o] = Σ_r A[n, r] · B[i, r] · C[o, r], never formed.

    y = ((a A) ∘ (x B)) Cᵀ: every expert acts on every token at the cost of few thin products, and
    experts are as many as the gate can afford; with two levels A is A₁[n₁, r] · A₂[n₂, r].
    The experts start alike but for their scales: A is N(1, 1), a second level's N(1, 0.01).

    Cost: R · (ΣE_l + i + o) parameters a layer, twice as many FLOPs a token. Known limits: needs
    a router that is a mixture; an expert alone is a matrix of rank R, and no matrix of its own.
    """

    def build_layer(self, inputs: int, outputs: int) -> FactorisedLayer:
        return CPLayer(self.modes, inputs, outputs, self.replaced.bias, self.solved_rank)

    def layer_size(self, modes: tuple[int, ...], inputs: int, outputs: int) -> Size:
        return Size(per_rank=sum(modes) + inputs + self.replaced.bias + outputs)


class CPLayer(FactorisedLayer):
    """A layer of `CPExperts`, with expert modes (E_l, R)."""

    def __init__(
        self, modes: tuple[int, ...], inputs: int, outputs: int, bias: bool, rank: int
    ) -> None:
        super().__init__(inputs, rank, rank, outputs, bias)
        self.modes = nn.ParameterList(torch.empty(size, rank) for size in modes)
        for mode, spread in zip(self.modes, spreads(modes), strict=True):
            nn.init.normal_(mode, 1, spread)

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        # With the tokens last, (R, t), products and sums run along whole vectors. Matrices with
        # rows of an odd length R would make some products half as slow again.
        joined = self.by_input(x)
        modes = self.modes if len(gates) == len(self.modes) else [self.joint_mode()]
        for gate, mode in zip(gates, modes, strict=True):
            joined = joined * (mode.t() @ gate)
        return joined.t() @ self.output

    def materialised(self) -> Tensor:
        return torch.einsum("er,ri,ro->eio", self.joint_mode(), self.input_mode(), self.output)

    def joint_mode(self) -> Tensor:
        """Return all expert modes as one: (E, R)."""
        return reduce(lambda a, b: (a.unsqueeze(1) * b).flatten(0, 1), self.modes)
