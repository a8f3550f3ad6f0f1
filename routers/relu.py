"""ReLU routing, whose sparsity is controlled by an adaptive L1 loss (ReMoE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from routers.affinity import Affinity
from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.logits import expert_softmax
from routers.parts import Batch
from routers.router import RAGGED, Unlimited, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("relu", family="token_choice", display="ReMoE", source="arXiv 2412.14711")
class ReLURouter(Unlimited):
    """Each token takes every expert with a positive logit, which is its weight (ReMoE).

    Continuous and differentiable where top-k jumps; a token may take no expert. In training each
    layer adds the loss λ · E / (k t²) · Σ_e n_e Σ_t C_te, with n_e the number of tokens that chose
    expert e, so busy experts are penalised more. After each step λ is multiplied by `alpha` if the
    model, averaged over its layers, is less sparse than 1 − k/E, and divided by it if it is
    sparser. λ starts at 1e-8. In evaluation there is neither loss nor update.

    The gates are the softmax of the logits. There is no capacity, so nothing is dropped. Cost: at
    the start half of all pairs are positive, so early steps run E / 2k times as many FLOPs as late
    ones. Known limit: the target sparsity holds at the end of training, not at every step.

    Attributes:
        strength: (), λ; the same in all layers of a model.
    """

    ignores_groups = True
    host_reads = RAGGED
    needs_sums = True
    strength: Tensor
    target_top_k: float = hyper(1.0, "Mean number of experts per token that λ aims at.", gt=0)
    alpha: float = hyper(
        1.2, "Factor by which λ changes per step.", gt=1, tune=Range(1.05, 1.5, log=True)
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.target_top_k > self.num_experts:
            raise RequestError(
                f"target_top_k = {self.target_top_k} is more than num_experts = {self.num_experts}"
            )
        self.register_buffer("strength", torch.tensor(1e-8))

    def build_gate(self) -> nn.Module:
        return with_deviation(super().build_gate(), 0.01)

    def allocate(self, logits: Tensor) -> Routing:
        weights, selected = logits.relu(), logits > 0
        routing = TokenChoiceRouting.from_mask(expert_softmax(logits), weights, selected)
        routing.statistics["pairs"] = torch.full((), logits.numel(), device=logits.device)
        return routing

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)

    def own_loss(self, routing: Routing, batch: Batch) -> Tensor | None:
        if not self.training:
            return None
        weights = routing.real(routing.combine_weights())
        counts = batch.whole(routing.demand().sum(0).to(weights.dtype))
        tokens = batch.whole(weights.new_full((), len(weights))).clamp(min=1)
        pairs = self.target_top_k * tokens**2 / self.num_experts
        return self.strength * (counts * batch.whole(weights.sum(0))).sum() / pairs

    @torch.no_grad()
    def after_model_step(self, layers: Sequence[dict[str, Tensor]]) -> None:
        shares = [own["demand"].sum() / own["pairs"] for own in layers if "pairs" in own]
        too_dense = torch.stack(shares).mean() > self.target_top_k / self.num_experts
        self.strength *= torch.where(too_dense, self.alpha, 1 / self.alpha)


def with_deviation(gate: nn.Module, std: float) -> nn.Module:
    """Redraw the output weights of an affinity from N(0, std²), as a paper's code does."""
    weight = gate.output() if isinstance(gate, Affinity) else None
    if weight is not None:
        nn.init.normal_(weight, std=std)
    return gate
