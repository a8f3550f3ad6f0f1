"""Experts of several kinds: MLPs, and experts that cost almost nothing (MoE++)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import register_experts
from bench.model.experts.replaced import Replaced
from bench.model.experts.stacked import MLPExperts
from routers import RequestError, Routing, TokenChoiceRouting, hyper
from routers.hyper import validated


@register_experts("heterogeneous", family="mlp", source="arXiv 2410.07348")
class HeterogeneousExperts(MLPExperts):
    """MLP experts, then constant, copy and zero experts, which need no MLP (MoE++).

    The order is: MLPs, constants, copies, zeros. A constant expert returns α₁x + α₂v with
    α = softmax(x W_c), where W_c (d, 2) and v are learned; a copy returns x, a zero expert 0.
    Simple tokens can use the cheap experts, so that the FLOPs of a token depend on the token. Any
    router can use these experts; the router `moe_plus_plus` also knows the kind of each.

    Cost: the MLPs run on their own slots only; a constant adds 4d FLOPs per slot. Known limit:
    there must be at least one MLP.
    """

    stacked = False
    constants: int = hyper(2, "Constant experts.", ge=0)
    copies: int = hyper(1, "Copy experts.", ge=0)
    zeros: int = hyper(1, "Zero experts.", ge=0)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        cheap = validated(self.hyper_model, "experts 'heterogeneous'", hyper)
        mlps = num_experts - sum(cheap[name] for name in ("constants", "copies", "zeros"))
        if mlps < 1:
            raise RequestError(
                f"experts 'heterogeneous': {num_experts - mlps} of {num_experts} experts would "
                "cost nothing, but at least one MLP is needed: use more num_experts, or fewer "
                "constants, copies or zeros"
            )
        super().__init__(mlps, replaced, **hyper)
        self.num_experts, self.hidden_width = num_experts, None
        kinds = {"mlp": mlps, "constant": self.constants, "copy": self.copies, "zero": self.zeros}
        self.kinds = tuple(name for name, number in kinds.items() for _ in range(number))
        self.values = nn.Parameter(torch.randn(self.constants, 1, replaced.dim))
        self.mixing = nn.Parameter(torch.randn(self.constants, replaced.dim, 2) * 0.02)

    @property
    def mlps(self) -> int:
        """The number of MLPs, which come first."""
        return self.kinds.count("mlp")

    def forward(self, slot_inputs: Tensor) -> Tensor:
        return self._run(slot_inputs, slot_inputs.shape[2])

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Dispatch, run and combine; the MLPs run only on the slots that their tokens may fill."""
        return routing.combine(self._run(routing.dispatch(x), self._mlp_slots(routing)))

    def _mlp_slots(self, routing: Routing) -> int:
        if isinstance(routing, TokenChoiceRouting) and routing.limits is not None:
            return min(routing.num_slots, max(routing.limits[: self.mlps]))
        return routing.num_slots

    def _run(self, slot_inputs: Tensor, slots: int) -> Tensor:
        """Run all experts, the MLPs only on their first `slots` slots, since the rest are empty."""
        mlps, copies = self.mlps, self.mlps + self.constants
        out = slot_inputs.new_zeros(slot_inputs.shape)
        hidden = super().activations(slot_inputs[:mlps, :, :slots])
        parts = [super().outputs(hidden).to(out.dtype)]
        if slots < slot_inputs.shape[2]:
            parts[0] = nn.functional.pad(parts[0], (0, 0, 0, slot_inputs.shape[2] - slots))
        if self.constants:
            parts.append(self._constant(slot_inputs[mlps:copies]).to(out.dtype))
        parts.append(slot_inputs[copies : copies + self.copies])
        parts.append(out[copies + self.copies :])
        return torch.cat(parts)

    def _constant(self, x: Tensor) -> Tensor:
        """Map (n, g, s, d) to α₁x + α₂v."""
        share = torch.einsum("ngsd,ndk->ngsk", x, self.mixing).softmax(-1)
        return share[..., :1] * x + share[..., 1:] * self.values.unsqueeze(1)

    def rows(self, routing: Routing) -> int:
        return routing.gates.shape[0] * self.mlps * self._mlp_slots(routing)
