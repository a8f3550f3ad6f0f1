"""Routings in which experts choose tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from routers.errors import RequestError
from routers.logits import exceptional, highest
from routers.routing.base import Routing


@dataclass(frozen=True, eq=False)
class ExpertChoiceRouting(Routing):
    """Each expert fills its s slots with tokens of its own choice, no token twice.

    Attributes:
        tokens: (g, E, s) long, the chosen tokens.
        weights: (g, E, s) float, their combine weights.
        filled: (g, E, s) bool, the used slots if experts differ in capacity; None if all are used.
    """

    tokens: Tensor
    weights: Tensor
    filled: Tensor | None = None

    constant_load: ClassVar[bool] = True

    @classmethod
    def top_tokens(
        cls, gates: Tensor, capacity: int | None, *, scores: Tensor | None = None
    ) -> Self:
        """Give each expert the `capacity` tokens with its highest scores, weighted by their gates.

        Ties go to the earliest token. A score of −∞ is never chosen: an expert with fewer other
        tokens leaves slots empty.

        Args:
            gates: (g, t, E).
            capacity: slots of every expert, at most t; None lets every expert take every token.
            scores: (g, t, E) to choose by; the gates if None.

        Raises:
            RequestError: more slots than tokens.
        """
        slots = gates.shape[1] if capacity is None else capacity
        if slots > gates.shape[1]:
            raise RequestError(f"an expert cannot choose {slots} of {gates.shape[1]} tokens")
        by = (gates if scores is None else scores).transpose(1, 2)
        values, tokens = highest(by, slots)
        return cls.from_choices(gates, tokens, None if scores is None else values)

    @classmethod
    def from_choices(cls, gates: Tensor, tokens: Tensor, scores: Tensor | None = None) -> Self:
        """Weight explicit choices by their gates: (g, t, E), (g, E, s) long -> a routing.

        A slot whose choice has a score of −∞, (g, E, s), stays empty.
        """
        weights, filled = gates.transpose(1, 2).gather(-1, tokens), None
        if scores is not None:
            real = scores > -torch.inf
            filled = real if exceptional((~real).any()) else None
        return cls(gates, tokens, weights, filled)

    @property
    def num_slots(self) -> int:
        return self.tokens.shape[-1]

    def _rows(self) -> Tensor:
        """Return (E·g·s,) long: row of each slot's token in the flattened (g, t)."""
        groups = self.tokens.shape[0]
        first = torch.arange(groups, device=self.tokens.device).view(-1, 1, 1) * self.num_tokens
        return (self.tokens + first).transpose(0, 1).reshape(-1)

    def _used(self, values: Tensor) -> Tensor:
        return values if self.filled is None else values * self.filled

    def dispatch(self, x: Tensor) -> Tensor:
        groups = x.shape[0]
        rows = x.flatten(2).flatten(0, 1).index_select(0, self._rows())
        slots = rows.view(self.num_experts, groups, self.num_slots, *x.shape[2:])
        if self.filled is None:
            return slots
        filled = self.filled.transpose(0, 1)
        return slots * filled.view(*filled.shape, *[1] * (x.dim() - 2)).to(x.dtype)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        shape = slot_outputs.shape[3:]
        weights = self._used(self.weights).transpose(0, 1).to(slot_outputs.dtype)
        rows = slot_outputs.flatten(3).flatten(0, 2) * weights.reshape(-1, 1)
        groups = self.tokens.shape[0]
        y = rows.new_zeros(groups * self.num_tokens, rows.shape[1])
        return y.index_add_(0, self._rows(), rows).view(groups, self.num_tokens, *shape)

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, weights=self.weights * factors.unsqueeze(-1))

    def dispatch_tensor(self) -> Tensor:
        return self._scattered(self._used(torch.ones_like(self.weights)))

    def combine_tensor(self) -> Tensor:
        return self._scattered(self._used(self.weights))

    def _scattered(self, values: Tensor) -> Tensor:
        """Return (g, E, s) values, each at its token: (g, t, E, s)."""
        groups, experts, slots = values.shape
        dense = values.new_zeros(groups, self.num_tokens, experts, slots)
        return dense.scatter(1, self.tokens.unsqueeze(1), values.unsqueeze(1))

    def combine_weights(self) -> Tensor:
        by_expert = self._used(self.weights)
        dense = by_expert.new_zeros(*by_expert.shape[:2], self.num_tokens)
        return dense.scatter_add(2, self.tokens, by_expert).transpose(1, 2)

    def expert_load(self) -> Tensor:
        return self._used(torch.ones_like(self.tokens)).sum(-1)

    def token_coverage(self) -> Tensor:
        groups = self.tokens.shape[0]
        coverage = self.tokens.new_zeros(groups, self.num_tokens)
        used = self._used(torch.ones_like(self.tokens))
        return coverage.scatter_add(1, self.tokens.flatten(1), used.flatten(1))
