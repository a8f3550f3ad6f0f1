"""Each token decides how many experts it takes; experts are switched on and off (DynMoE)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.logits import sigmoid_shares
from routers.router import RAGGED, OwnGate, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("dynmoe", family="token_choice", display="DynMoE", source="arXiv 2405.14297")
class DynMoE(OwnGate):
    """Each token takes every expert whose score passes the expert's own threshold (DynMoE).

    The score is σ of the cosine of token and expert vector; the threshold is σ(g), with g learned
    from 0. A token's experts have equal weights, 1 over their number; the gradient passes straight
    through the comparison at the chosen pairs. In training a token may take no expert; in
    evaluation it then takes the expert with the highest score.

    Every `adapt_every` steps, experts that no token has chosen since the last change are switched
    off; if tokens found no expert, an inactive one is switched on, with their mean direction as its
    vector and its MLP's weights unchanged. The loss, with weight 0.01, is ‖W̃ᵀW̃ − I‖ over the unit
    vectors of active experts, plus the mean length of all vectors.

    The gates are the normalised scores. Cost: one cosine per expert. Known limit: at the start
    about half of all pairs are chosen.

    Attributes:
        mask: (E,) bool, the active experts.
        chosen_since, unserved_since, steps_since: records since the last change.
    """

    ignores_groups = True
    host_reads = RAGGED
    needs_sums = True
    mask: Tensor
    chosen_since: Tensor
    unserved_since: Tensor
    steps_since: Tensor
    max_experts: int | None = hyper(
        None, "Experts that may be active at a time; None allows all of the layer.", ge=1
    )
    adapt_every: int = hyper(100, "Steps between changes of the active experts.", ge=1)
    loss_weight: float = hyper(
        0.01, "Weight of the loss on the vectors.", ge=0, tune=Range(1e-3, 0.1, log=True)
    )

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        if (self.max_experts or 1) > self.num_experts:
            raise RequestError(
                f"max_experts = {self.max_experts} is more than num_experts = {self.num_experts}"
            )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.thresholds = nn.Parameter(torch.zeros(self.num_experts))
        active = torch.arange(self.num_experts) < (self.max_experts or self.num_experts)
        self.register_buffer("mask", active)
        self.register_buffer("chosen_since", torch.zeros(self.num_experts, dtype=torch.long))
        self.register_buffer("unserved_since", torch.zeros(self.dim))
        self.register_buffer("steps_since", torch.zeros((), dtype=torch.long))

    def build_gate(self) -> nn.Module:
        gate = nn.Linear(self.dim, self.num_experts, bias=False)
        nn.init.orthogonal_(gate.weight)
        return gate

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        vectors = F.normalize(self.vectors.to(tokens.dtype), dim=-1)
        return F.linear(F.normalize(tokens, dim=-1), vectors)

    @property
    def vectors(self) -> nn.Parameter:
        """The experts' vectors, (E, d)."""
        vectors: nn.Parameter = self.gate.weight  # type: ignore[assignment]
        return vectors

    def allocate(self, logits: Tensor) -> Routing:
        scores = logits.sigmoid() * self.mask
        over = (scores - self.thresholds.to(logits.dtype).sigmoid()).relu()
        selected = over > 0
        # Forward: 1 where an expert is chosen; backward: the identity into `over`.
        passed = selected + (over - over.detach())
        if not self.training:
            alone = scores.argmax(-1, keepdim=True)
            fallback = torch.zeros_like(selected).scatter(-1, alone, True)
            selected = torch.where(selected.any(-1, keepdim=True), selected, fallback)
            passed = selected.to(logits.dtype)
        weights = passed / selected.sum(-1, keepdim=True).clamp(min=1)
        gates = sigmoid_shares(logits.masked_fill(~self.mask, -torch.inf))
        return TokenChoiceRouting.from_mask(gates, weights, selected)

    def complete(self, routing: Routing, tokens: Tensor) -> Routing:
        if not self.training:
            return routing
        unserved = (routing.token_coverage() == 0).unsqueeze(-1)
        routing.statistics["unserved"] = (tokens.detach() * unserved).sum((0, 1))
        active = F.normalize(self.vectors[self.mask], dim=-1)
        gram = active @ active.T - torch.eye(len(active), device=active.device)
        lengths = torch.linalg.vector_norm(self.vectors, dim=-1)
        # The norm of a zero matrix has no gradient.
        size = gram.square().sum().clamp(min=1e-12).sqrt()
        return dataclasses.replace(routing, loss=self.loss_weight * (size + lengths.mean()))

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        self.chosen_since += stats["demand"]
        if "unserved" in stats:
            self.unserved_since += stats["unserved"].to(self.unserved_since.dtype)
        self.steps_since += 1
        if int(self.steps_since) >= self.adapt_every:
            self.adapt()

    @torch.no_grad()
    def adapt(self) -> None:
        """Switch off the experts that no token chose, and switch one on if tokens found none."""
        if bool(self.chosen_since.any()):
            self.mask &= self.chosen_since > 0
        length = float(torch.linalg.vector_norm(self.unserved_since))
        room = int(self.mask.sum()) < (self.max_experts or self.num_experts)
        if length > 0 and math.isfinite(length) and room:
            new = int((~self.mask).nonzero()[0])
            self.vectors[new] = self.unserved_since / length
            self.thresholds[new] = 0
            self.mask[new] = True
        for record in (self.chosen_since, self.unserved_since, self.steps_since):
            record.zero_()
