"""Experts of one weight tensor in tensor-ring form: a trace of products of small cores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from bench.model.experts.base import register_experts
from bench.model.experts.factorised import FactorisedExperts, FactorisedLayer, Size, spreads
from routers import hyper


@register_experts("tr", family="factorised", source="arXiv 2402.12550")
class TRExperts(FactorisedExperts):
    """μMoE with tensor-ring cores: W[n, i, o] = trace(A[:, n, :] · B[:, i, :] · C[:, o, :]).

    A is (q, E, q), B (q, i, R), C (R, o, q): the rank at which experts differ, at most q², is a
    choice apart from R. With two levels A[:, n, :] is A₁[:, n₁, :] · A₂[:, n₂, :]. The experts
    start alike but for their scales: slices of A are diagonal, N(1, 1), a
    second level's N(1, 0.01).

    Cost: q²·ΣE_l + q·R·(i + o) parameters a layer; 2q²·R FLOPs a token beside the products with
    them. Known limit: needs a router that is a mixture.
    """

    ring_rank: int = hyper(4, "q, of the ring beside the expert modes.", ge=1)

    def build_layer(self, inputs: int, outputs: int) -> FactorisedLayer:
        ranks = self.ring_rank, self.solved_rank
        return TRLayer(self.modes, inputs, outputs, self.replaced.bias, *ranks)

    def layer_size(self, modes: tuple[int, ...], inputs: int, outputs: int) -> Size:
        ring, bias = self.ring_rank, self.replaced.bias
        return Size(ring**2 * sum(modes), ring * (inputs + bias + outputs))


class TRLayer(FactorisedLayer):
    """A layer of `TRExperts`; expert modes are (E_l, q, q), the others have q and R as one axis."""

    def __init__(
        self, modes: tuple[int, ...], inputs: int, outputs: int, bias: bool, ring: int, rank: int
    ) -> None:
        super().__init__(inputs, ring * rank, ring * rank, outputs, bias)
        self.ring, self.rank = ring, rank
        slices = (torch.eye(ring).repeat(size, 1, 1) for size in modes)
        self.modes = nn.ParameterList(slices)
        with torch.no_grad():
            for mode, spread in zip(self.modes, spreads(modes), strict=True):
                mode.mul_(torch.empty_like(mode).normal_(1, spread))

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        modes = self.modes if len(gates) == len(self.modes) else [self.joint_mode()]
        pairs = zip(gates, modes, strict=True)
        mixed = [(gate.t() @ mode.flatten(1)).unflatten(1, mode.shape[1:]) for gate, mode in pairs]
        joined = reduce(torch.matmul, [*mixed, self._cored(self.by_input(x).t(), 1)])
        return joined.flatten(1) @ self.output

    def materialised(self) -> Tensor:
        inputs, outputs = self._cored(self.input_mode(), 0), self._cored(self.output, 0)
        return torch.einsum("eab,bri,aro->eio", self.joint_mode(), inputs, outputs)

    def joint_mode(self) -> Tensor:
        """Return all expert modes as one: (E, q, q)."""
        return reduce(lambda a, b: (a.unsqueeze(1) @ b).flatten(0, 1), self.modes)

    def _cored(self, matrix: Tensor, axis: int) -> Tensor:
        """Reshape a core so that q and R are separate axes."""
        return matrix.unflatten(axis, (self.ring, self.rank))
