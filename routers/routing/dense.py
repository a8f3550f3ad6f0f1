"""Routings in which every expert sees every token: dense mixtures, and mixtures in slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from routers.logits import exceptional
from routers.routing.base import Routing


class SeenByAll(Routing):
    """Base class of routings in which every expert sees every token of its group."""

    constant_load: ClassVar[bool] = True
    seen_by_all: ClassVar[bool] = True

    def taken(self) -> Tensor:
        return torch.ones_like(self.gates, dtype=torch.bool)

    def expert_load(self) -> Tensor:
        groups, tokens, experts = self.gates.shape
        return torch.full((groups, experts), tokens, device=self.gates.device)

    def token_coverage(self) -> Tensor:
        groups, tokens, experts = self.gates.shape
        return torch.full((groups, tokens), experts, device=self.gates.device)


@dataclass(frozen=True, eq=False)
class MixtureRouting(SeenByAll):
    """A dense mixture: slot s of every expert holds token s.

    Attributes:
        weights: (g, t, E), the combine weights; by default the gates.
        levels: (g, t, E_l) for each expert mode, if the weights are their outer product, else None.
    """

    weights: Tensor = None  # type: ignore[assignment]
    levels: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "weights", self.gates)

    @classmethod
    def from_levels(cls, levels: tuple[Tensor, ...]) -> Self:
        """Build gates as the outer product of the modes', (g, t, E_l); the first varies slowest."""
        gates = levels[0]
        for level in levels[1:]:
            gates = (gates.unsqueeze(-1) * level.unsqueeze(-2)).flatten(-2)
        return cls(gates, gates, levels)

    @property
    def num_slots(self) -> int:
        return self.num_tokens

    def dispatch(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.num_experts, *x.shape)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        weights = self.weights.to(slot_outputs.dtype)
        # Probabilities that experts return in float32 stay so under autocast.
        with torch.autocast(slot_outputs.device.type, enabled=False):
            y = torch.einsum("gte,egtd->gtd", weights, slot_outputs.flatten(3))
        return y.unflatten(2, slot_outputs.shape[3:])

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, weights=self.weights * factors, levels=None)

    def dispatch_tensor(self) -> Tensor:
        eye = torch.eye(self.num_tokens, dtype=self.gates.dtype, device=self.gates.device)
        shape = (self.gates.shape[0], self.num_tokens, self.num_experts, self.num_tokens)
        return eye.view(1, self.num_tokens, 1, self.num_tokens).expand(shape)

    def combine_tensor(self) -> Tensor:
        return self.weights.unsqueeze(-1) * self.dispatch_tensor()

    def combine_weights(self) -> Tensor:
        return self.weights


@dataclass(frozen=True, eq=False)
class MergedRouting(MixtureRouting):
    """One expert per group, whose parameters are the weighted mean of all experts'.

    The combine weights say how much of each expert it contains; its output is not the mixture of
    the experts' outputs, since experts are not linear in their parameters (2306.03745).
    """

    @property
    def slot_count(self) -> int:
        return self.gates.shape[:2].numel()

    @property
    def merge_weights(self) -> Tensor:
        """(g, E): each expert's share of the group's expert."""
        return self.weights[:, 0]


@dataclass(frozen=True, eq=False)
class SoftRouting(SeenByAll):
    """Dense dispatch and combine tensors (2308.00951).

    Attributes:
        dispatch_weights: (g, t, E, s), each slot's distribution over the tokens.
        slot_weights: (g, t, E, s), each token's distribution over all slots.
    """

    dispatch_weights: Tensor
    slot_weights: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor) -> Self:
        """Dispatch (g, t, E, s) by a softmax over the tokens, combine by one over all slots.

        A pair at −∞ has weight 0 in both; a slot with only such pairs reads nothing.
        """
        slot_weights = logits.flatten(2).softmax(-1).view_as(logits)
        empty = logits.detach().amax(1, keepdim=True) == -torch.inf
        if exceptional(empty.any()):
            # The softmax must not be NaN before it is masked, or its gradient would be, too.
            dispatch = logits.masked_fill(empty, 0).softmax(1).masked_fill(empty, 0)
        else:
            dispatch = logits.softmax(1)
        return cls(slot_weights.sum(-1), dispatch, slot_weights)

    @property
    def num_slots(self) -> int:
        return self.dispatch_weights.shape[-1]

    def dispatch(self, x: Tensor) -> Tensor:
        weights = self.dispatch_weights.flatten(2).transpose(1, 2).to(x.dtype)
        slots = torch.bmm(weights, x.flatten(2))
        groups = x.shape[0]
        return slots.view(groups, self.num_experts, self.num_slots, *x.shape[2:]).transpose(0, 1)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        shape = slot_outputs.shape[3:]
        slots = slot_outputs.transpose(0, 1).flatten(3).flatten(1, 2)
        return torch.bmm(self.slot_weights.flatten(2).to(slots.dtype), slots).unflatten(2, shape)

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, slot_weights=self.slot_weights * factors.unsqueeze(-1))

    def dispatch_tensor(self) -> Tensor:
        return self.dispatch_weights

    def combine_tensor(self) -> Tensor:
        return self.slot_weights

    def combine_weights(self) -> Tensor:
        return self.slot_weights.sum(-1)
