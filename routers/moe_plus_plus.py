"""Token choice among experts of different cost, with gating residuals (MoE++)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.logits import expert_softmax, filled
from routers.parts import Batch
from routers.router import Router, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("moe_plus_plus", family="token_choice", display="MoE++", source="arXiv 2410.07348")
class MoEPlusPlus(Router):
    """Each token takes two experts, some of which cost nothing; layers pass logits on (MoE++).

    A learned linear map of the previous MoE layer's full logits is added to a layer's logits. The
    two highest gates are taken, a zero expert's weight is set to 0, and both are divided by their
    sum. With τ below 1, MLP experts have room for fewer tokens than those that cost nothing:
    γτT / (τN + M) and γT / (τN + M), with N MLPs, M others and T = 2t choices. The loss is
    β Σ_e η_e f_e P_e, with η = 1 for MLPs and τ for others, f the share of tokens that chose expert
    e and P its mean gate, so a smaller τ sends more tokens to the cheap experts.

    The layer says which experts are MLPs; with experts of one kind all are. The paper's released
    code has neither loss nor capacity, and doubles the experts' input. Cost: that of
    `softmax_token_choice` plus E² per token. Known limit: if a token takes the zero expert, the
    other's weight is 1 and its gate gets no gradient.

    Attributes:
        residual: (E, E), the map of the previous logits; unused in the first MoE layer.
    """

    prunable = False  # the map between layers reads every expert of the previous layer
    eval_capacity_factor: ClassVar[Literal["same"]] = "same"  # type: ignore[misc]
    capacity_factor: float | None = hyper(
        1.1, "Total slots over the tokens' choices, γ; None drops nothing.", gt=0
    )
    tau: float = hyper(
        0.75,
        "Share of tokens for an MLP over that for another expert, τ.",
        gt=0,
        le=1,
        tune=Range(0.1, 1.0),
    )
    loss_weight: float = hyper(
        0.01, "Weight of the balance loss, β.", ge=0, tune=Range(1e-3, 0.1, log=True)
    )
    mixtral_gating: bool = hyper(False, "Weight by a softmax over the two, zero experts too.")
    logits_norm: bool = hyper(False, "First divide each token's logits by their deviation.")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.num_experts < 2:
            raise RequestError("router 'moe_plus_plus' chooses two experts, and there is one")
        self.residual = nn.Parameter(torch.randn(self.num_experts, self.num_experts) * 0.02)
        kinds = self.site.kinds or ("mlp",) * self.num_experts
        self.is_mlp = tuple(kind == "mlp" for kind in kinds)
        self.is_zero = tuple(kind == "zero" for kind in kinds)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        logits = super().compute_logits(tokens, context)
        if context.previous_logits is None:
            return logits
        return logits + nn.functional.linear(context.previous_logits.to(logits), self.residual)

    def allocate(self, logits: Tensor) -> Routing:
        logits = self._normed(logits)
        gates = expert_softmax(logits)
        limits = self.limits(logits)
        routing = TokenChoiceRouting.top_k(gates, 2, limits, logits=logits, renormalize=True)
        if not self.mixtral_gating:
            zero = filled(self.is_zero, logits).bool()[routing.experts]
            left = routing.weights.masked_fill(zero, 0)
            total = left.sum(-1, keepdim=True)
            routing = dataclasses.replace(routing, weights=left / total.clamp(min=1e-20))
        return routing

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(self._normed(logits))

    def _normed(self, logits: Tensor) -> Tensor:
        if not self.logits_norm:
            return logits
        return logits / logits.std(-1, keepdim=True).clamp(min=1e-12)

    def limits(self, logits: Tensor) -> tuple[int, ...] | None:
        """Return each expert's slots for (g, t, E) logits; None for no limit."""
        if self.capacity_factor is None:
            return None
        tokens, mlps = logits.shape[1], sum(self.is_mlp)
        unit = self.capacity_factor * 2 * tokens / (self.tau * mlps + self.num_experts - mlps)
        return tuple(
            min(tokens, math.ceil(unit * (self.tau if mlp else 1.0) - 1e-9)) for mlp in self.is_mlp
        )

    def own_loss(self, routing: Routing, batch: Batch) -> Tensor | None:
        if not self.training:
            return None
        gates = routing.real(routing.gates)
        share = batch.whole(routing.demand().sum(0).to(gates.dtype))
        share = share / batch.whole(gates.new_full((), len(gates))).clamp(min=1)
        eta = filled([1.0 if mlp else self.tau for mlp in self.is_mlp], gates)
        return self.loss_weight * (eta * share * batch.mean(gates)).sum()
