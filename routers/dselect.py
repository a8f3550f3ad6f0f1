"""A differentiable choice of k experts by binary codes (DSelect-k)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.parts import Batch
from routers.router import RAGGED, OwnGate, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("dselect_k", family="token_choice", display="DSelect-k", source="arXiv 2106.03760")
class DSelectK(OwnGate):
    """k selectors, each of which names an expert by the smoothed bits of its index (DSelect-k).

    A selector gives each of m = ⌈log₂ E⌉ bits a logit, which a smooth step turns into a value in
    [0, 1], exactly 0 or 1 beyond ±γ/2; its weight for an expert is the product over the bits.
    A softmax weights the selectors. Selectors may name the same expert, so a token ends up with at
    most k experts; at the start, before the bits have settled, it takes all of them.

    In training, `entropy_weight` times the sum of the selectors' entropies makes the bits settle.
    If E is not a power of 2, some codes name no expert: a selector then adds 1 / (its mass on real
    experts) to the loss, and the weights do not sum to 1. The gates are the normalised weights.
    Cost: a d × k(m + 1) product. Known limit: FLOPs fall only as the bits settle.
    """

    ignores_groups = True
    host_reads = RAGGED
    prunable = False  # the bits encode an expert's index
    top_k: int = hyper(2, "Selectors, k.", ge=1)
    gamma: float = hyper(1.0, "Width of the smooth step, γ.", gt=0, tune=Range(0.1, 10.0, log=True))
    entropy_weight: float = hyper(
        1e-6, "Weight of the selectors' entropies, summed over the batch.", ge=0
    )

    @property
    def bits(self) -> int:
        """m, the number of bits of an expert's index."""
        return max(1, math.ceil(math.log2(self.num_experts)))

    def build_gate(self) -> nn.Module:
        gate = nn.Linear(self.dim, self.top_k * (self.bits + 1))
        codes = self.top_k * self.bits
        for weights in (gate.weight, gate.bias):
            nn.init.uniform_(weights[:codes], -self.gamma / 100, self.gamma / 100)
            nn.init.uniform_(weights[codes:], -0.05, 0.05)
        return gate

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        """Compute the logits of bits and selectors: (g, t, d) -> (g, t, k · (m + 1))."""
        raw: Tensor = self.gate(tokens)
        return raw

    def allocate(self, logits: Tensor) -> Routing:
        codes = logits[..., : self.top_k * self.bits].unflatten(-1, (self.top_k, self.bits))
        shares = logits[..., self.top_k * self.bits :].softmax(-1)
        selected = self.selectors(codes)
        weights = torch.einsum("gtk,gtke->gte", shares, selected)
        total = weights.sum(-1, keepdim=True)
        gates = torch.where(total > 0, weights / total.clamp(min=1e-20), 1 / self.num_experts)
        routing = TokenChoiceRouting.from_mask(gates, weights, weights > 0)
        return dataclasses.replace(routing, loss=self._loss(selected) if self.training else None)

    def complete(self, routing: Routing, tokens: Tensor) -> Routing:
        # Losses and suites read these as logits: one per expert, with the gates as their softmax.
        logits = routing.gates.clamp(min=1e-20).log()
        return dataclasses.replace(routing, logits=logits, noisy_logits=logits)

    def own_loss(self, routing: Routing, batch: Batch) -> Tensor | None:
        return None if routing.loss is None else batch.whole(routing.loss)

    def selectors(self, codes: Tensor) -> Tensor:
        """Return each selector's weights for the experts: (g, t, k, m) -> (g, t, k, E)."""
        on = smooth_step(codes, self.gamma).unsqueeze(-2)
        expert = torch.arange(self.num_experts, device=codes.device).unsqueeze(-1)
        place = torch.arange(self.bits - 1, -1, -1, device=codes.device)
        bit = (expert >> place & 1).bool()
        return torch.where(bit, on, 1 - on).prod(-1)

    def _loss(self, selected: Tensor) -> Tensor:
        loss = -self.entropy_weight * (selected * (selected + 1e-6).log()).sum()
        if self.num_experts & (self.num_experts - 1):
            loss = loss + (1 / selected.sum(-1).clamp(min=1e-6)).sum()
        return loss


def smooth_step(x: Tensor, width: float) -> Tensor:
    """Return a cubic step with continuous slope: 0 below −width/2, 1 above width/2."""
    inside = x.clamp(-width / 2, width / 2) / width
    # Rounding can overshoot 0 and 1 at the ends.
    return (-2 * inside**3 + 1.5 * inside + 0.5).clamp(0, 1)
