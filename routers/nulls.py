"""Null routers: what a learned router has to beat."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from routers.errors import RequestError
from routers.hyper import hyper
from routers.layer_info import RouterContext
from routers.logits import highest
from routers.router import register_router
from routers.routing import Routing, TokenChoiceRouting
from routers.token_choice import SoftmaxTokenChoice, TokenChoice


class EvenTopK(TokenChoice):
    """Base class of nulls: the k experts with the highest logits, each with weight and gate 1/k."""

    affinity: ClassVar[str] = "none"  # type: ignore[misc]
    affinity_options: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]

    def build_gate(self) -> nn.Module:
        return nn.Identity()

    def allocate(self, logits: Tensor) -> Routing:
        values, experts = highest(logits, self.top_k)
        chosen = values > -torch.inf
        weights = chosen / chosen.sum(-1, keepdim=True).to(logits.dtype)
        gates = torch.zeros_like(logits).scatter(-1, experts, weights)
        capacity = self.capacity(logits, self.top_k)
        return TokenChoiceRouting.from_choices(gates, experts, weights, capacity, chosen=chosen)


@register_router("random", family="null", display="Random", source="null")
class RandomRouter(EvenTopK):
    """k experts drawn uniformly at random for every token, again at each training step.

    In eval mode the draw is a hash of the token's own bits and a seed: repeatable, and independent
    of the rest of the batch.
    A router's gain over this one is what its choices are worth.
    """

    odd: Tensor
    seed: int = hyper(0, "Seed of the draw in eval mode.", ge=0, lt=2**32)

    def build_gate(self) -> nn.Module:
        self.register_buffer("odd", odd_numbers(self.dim, self.seed), persistent=False)
        return super().build_gate()

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        groups, length, _ = tokens.shape
        shape = (groups, length, self.num_experts)
        if self.training:
            return torch.empty(shape, device=tokens.device).uniform_(generator=context.generator)
        return drawn_from_bits(tokens, self.num_experts, self.odd)


@register_router("hash", family="null", display="Hash", source="arXiv 2106.04426, adapted")
class HashRouter(EvenTopK):
    """k experts fixed by the token's position in its group, balanced over positions.

    Adapted from hash layers, which hash the token's content: patches have no vocabulary.
    """

    prunable = False
    order: Tensor
    seed: int = hyper(0, "Seed of the map from positions to experts.", ge=0, lt=2**32)

    def build_gate(self) -> nn.Module:
        self.register_buffer("order", self.permuted(self.tokens or 0), persistent=False)
        return super().build_gate()

    def permuted(self, length: int) -> Tensor:
        """Draw a random order of that many positions, (length,) long."""
        return torch.randperm(length, generator=torch.Generator().manual_seed(self.seed))

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        groups, length, _ = tokens.shape
        known = length == len(self.order)  # the order of another length is copied to the device
        order = self.order if known else self.permuted(length).to(tokens.device)
        first = (order % self.num_experts).unsqueeze(-1)
        expert = torch.arange(self.num_experts, device=tokens.device)
        # 0 for the position's expert, -1 for the next, cyclically, …
        logits = -((expert - first) % self.num_experts).to(tokens.dtype)
        return logits.expand(groups, length, self.num_experts)


@register_router("frozen", family="null", display="Frozen Gate", source="null")
class FrozenRouter(SoftmaxTokenChoice):
    """A softmax token-choice router whose gate keeps its initial weights.

    The experts learn but the routing does not, so a router's gain over this one is what learning
    to route is worth.
    """

    def build_gate(self) -> nn.Module:
        return super().build_gate().requires_grad_(False)


def odd_numbers(count: int, seed: int) -> Tensor:
    """Draw odd factors, (count,) long."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1


def drawn_from_bits(tokens: Tensor, outputs: int, odd: Tensor) -> Tensor:
    """Hash each token's float32 bits by (d,) factors to n in [-1, 1]: (g, t, d) -> (g, t, n)."""
    bits = tokens.float().contiguous().view(torch.int32).long()
    # Integers wrap around, so the sum is exact in any order and on any device.
    key = (bits * odd).sum(-1, keepdim=True)
    mixed = key + torch.arange(1, outputs + 1, device=bits.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed ^ (mixed >> 31)).to(tokens.dtype) / 2**63


@register_router("forced", family="null", display="Forced", source="null")
class ForcedRouter(EvenTopK):
    """k experts in turn, whatever the tokens are: even loads, or a set overload of one expert.

    With `skew` = 1, token i takes the experts i·k, i·k + 1, …, modulo E. With a larger `skew`,
    expert 0 gets `skew` times its even share of the tokens, and the others share the rest. For
    testing what uneven loads cost, in time and in dropped tokens.
    """

    prunable = False
    skew: float = hyper(1.0, "Load of expert 0 over its even share; 1 is even.", ge=1)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        return tokens.new_zeros(*tokens.shape[:2], self.num_experts)

    def allocate(self, logits: Tensor) -> Routing:
        groups, tokens, experts = logits.shape
        forced = forced_experts(tokens, experts, self.top_k, self.skew, logits.device)
        chosen = forced.expand(groups, tokens, self.top_k)
        weights = logits.new_full(chosen.shape, 1 / self.top_k)
        gates = torch.zeros_like(logits).scatter(-1, chosen, weights)
        capacity = self.capacity(logits, self.top_k)
        return TokenChoiceRouting.from_choices(gates, chosen, weights, capacity)


def forced_experts(
    tokens: int, experts: int, k: int, skew: float, device: torch.device | None = None
) -> Tensor:
    """Return the experts of each token, (t, k) long, in turn, but expert 0 `skew` times as often.

    Raises:
        RequestError: there are not that many tokens, or the other experts are fewer than k.
    """
    if skew == 1:
        return torch.arange(tokens * k, device=device).view(tokens, k) % experts
    wanted = round(skew * tokens * k / experts)
    if wanted > tokens or experts - 1 < k:
        raise RequestError(
            f"skew = {skew:g} with top_k = {k} asks for {wanted} of {tokens} tokens at one of "
            f"{experts} experts; the largest skew is {experts / k if experts > k else 1:g}"
        )
    # Spread evenly over the sequence: expert 0 takes the tokens at which the running count rises.
    count = torch.arange(1, tokens + 1, device=device) * wanted // max(tokens, 1)
    taken = count.diff(prepend=count.new_zeros(1)) > 0
    turn = torch.arange(tokens * k, device=device).view(tokens, k)
    others = turn - count.unsqueeze(1)
    others = others % (experts - 1) + 1
    first = torch.where(taken.unsqueeze(1), 0, others[:, :1])
    return torch.cat([first, others[:, 1:]], 1)
