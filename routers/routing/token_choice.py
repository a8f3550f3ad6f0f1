"""Routings in which tokens choose experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from routers.errors import RequestError
from routers.logits import filled, highest
from routers.routing.base import Routing, computed_once
from routers.routing.gather import CombineRows, DispatchRows, gather_rows, inverse_rows


@dataclass(frozen=True, eq=False)
class TokenChoiceRouting(Routing):
    """Each token names up to K experts; an expert over its capacity drops the last in order.

    Attributes:
        experts: (g, t, K) long, the chosen experts, the preferred one first.
        weights: (g, t, K) float, combine weight of each choice if it is kept.
        position: (g, t, K) long, place of each choice in its expert's queue, from 0.
        capacity: slots of each expert; the same for all.
        limits: if experts differ, the slots that each may fill, at most `capacity`.
        chosen: (g, t, K) bool, which choices are real, if tokens take different numbers of experts;
            None if all are.
        dropless: whether there was no capacity, so that the longest queue sets the slots.
    """

    experts: Tensor
    weights: Tensor
    position: Tensor
    capacity: int
    limits: tuple[int, ...] | None = None
    chosen: Tensor | None = None
    dropless: bool = False

    @classmethod
    def top_k(
        cls,
        gates: Tensor,
        k: int,
        capacity: int | Sequence[int] | None,
        *,
        logits: Tensor | None = None,
        scores: Tensor | None = None,
        batch_priority: bool = False,
        renormalize: bool = False,
    ) -> Self:
        """Give each token the k experts with its highest scores, weighted by its gates.

        Equal scores go to the lowest expert, equal priorities to the earliest token. A score or
        logit of −∞ is never chosen: a token with fewer than k others takes fewer experts.

        Args:
            gates: (g, t, E).
            capacity: slots of every expert, E numbers if they differ, or None to drop nothing,
                which waits for a GPU.
            logits: (g, t, E), whose softmax are the gates: chooses as the gates do, even where
                these underflow or round to equal values. Pass it for k above 1.
            scores: (g, t, E) to choose by instead.
            batch_priority: an expert serves the tokens with the highest score first, or with the
                highest gate if there are no scores, instead of in their order (2106.05974).
                All first choices still go before the second ones.
            renormalize: divide the weights by their sum over the choices.

        Raises:
            RequestError: more choices than experts, or none.
        """
        if not 1 <= k <= gates.shape[-1]:
            raise RequestError(
                f"a token cannot choose {k} of {gates.shape[-1]} experts; "
                f"k is from 1 to {gates.shape[-1]}"
            )
        by = next((each for each in (scores, logits) if each is not None), gates)
        values, experts = highest(by, k)
        weights, chosen = gates.gather(-1, experts), None
        if by is not gates:
            chosen = values > -torch.inf
            weights = weights.masked_fill(~chosen, 0)
        if renormalize:
            # A plan may choose experts whose gates are all 0 in float32; then so are the weights.
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
        ranked = (gates if scores is None else scores).gather(-1, experts[..., :1]).squeeze(-1)
        priority = ranked if batch_priority else None
        return cls.from_choices(gates, experts, weights, capacity, priority=priority, chosen=chosen)

    @classmethod
    def from_choices(
        cls,
        gates: Tensor,
        experts: Tensor,
        weights: Tensor,
        capacity: int | Sequence[int] | None,
        *,
        priority: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Self:
        """Queue explicit choices at their experts; the arguments are as in `top_k` and the class.

        The token with the highest `priority`, (g, t), is served first; None serves in order.
        """
        position, longest = queue_positions(experts, gates.shape[-1], priority, chosen)
        limits = None
        if capacity is None:
            slots = max(int(longest), 1)
        elif isinstance(capacity, int):
            slots = capacity
        else:
            limits = tuple(map(int, capacity))
            slots = max(limits)
        return cls(gates, experts, weights, position, slots, limits, chosen, capacity is None)

    @classmethod
    def from_mask(cls, gates: Tensor, weights: Tensor, selected: Tensor) -> Self:
        """Give each token the experts that a mask selects, any number of them; nothing is dropped.

        A token's experts are ordered by its gates. Reading their largest number waits for a GPU.

        Args:
            gates: (g, t, E).
            weights: (g, t, E), combine weight of each pair if it is selected.
            selected: (g, t, E) bool.
        """
        most = int(selected.sum(-1).amax()) if selected.numel() else 0
        by_gate = gates.argsort(dim=-1, descending=True, stable=True)
        first = selected.gather(-1, by_gate).byte().argsort(dim=-1, descending=True, stable=True)
        experts = by_gate.gather(-1, first[..., : max(most, 1)])
        chosen = selected.gather(-1, experts)
        kept = weights.gather(-1, experts).masked_fill(~chosen, 0)
        return cls.from_choices(gates, experts, kept, None, chosen=chosen)

    @property
    def choices(self) -> int:
        return self.experts.shape[-1]

    @property
    def num_slots(self) -> int:
        return self.capacity

    @computed_once
    def kept(self) -> Tensor:
        """(g, t, K) bool: the choices that found a slot."""
        limit: Tensor | int = self.capacity
        if self.limits is not None:
            limit = filled(self.limits, self.experts)[self.experts]
        kept = self.position < limit
        return kept if self.chosen is None else kept & self.chosen

    @computed_once
    def slot_of_choice(self) -> Tensor:
        """(g·t, K) long: row of each choice in the flattened (E, g, s), one past it if dropped."""
        groups = len(self.experts)
        group = torch.arange(groups, device=self.experts.device).view(-1, 1, 1)
        row = (self.experts * groups + group) * self.capacity + self.position
        return torch.where(self.kept, row, self._rows).reshape(-1, self.choices)

    @computed_once
    def token_of_slot(self) -> Tensor:
        """(E·g·s,) long: row of each slot's token in flattened (g, t), one past it if unused."""
        rows = self.slot_of_choice.shape[0]
        return inverse_rows(self.slot_of_choice, self._rows, rows)

    @property
    def _rows(self) -> int:
        """The number of rows of the flattened (E, g, s)."""
        return self.num_experts * len(self.experts) * self.capacity

    def dispatch(self, x: Tensor) -> Tensor:
        groups = x.shape[0]
        rows = x.flatten(2).flatten(0, 1)
        slots = DispatchRows.apply(rows, self.token_of_slot, self.slot_of_choice)
        return slots.view(self.num_experts, groups, self.capacity, *x.shape[2:])

    def combine(self, slot_outputs: Tensor) -> Tensor:
        groups, tokens, choices = self.experts.shape
        shape = slot_outputs.shape[3:]
        rows = slot_outputs.flatten(3).flatten(0, 2)
        weights = self.weights.reshape(-1, choices)
        y = CombineRows.apply(rows, weights, self.token_of_slot, self.slot_of_choice)
        return y.view(groups, tokens, *shape)

    def of_choices(self, slot_outputs: Tensor) -> Tensor:
        """Gather each choice's output, 0 where it was dropped: (E, g, s, d) -> (g, t, K, d)."""
        rows = gather_rows(slot_outputs.flatten(0, 2), self.slot_of_choice)
        return rows.view(*self.experts.shape, slot_outputs.shape[-1])

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, weights=self.weights * factors[self.experts])

    def dispatch_tensor(self) -> Tensor:
        return self._scattered(torch.ones_like(self.weights))

    def combine_tensor(self) -> Tensor:
        return self._scattered(self.weights)

    def _scattered(self, values: Tensor) -> Tensor:
        """Return (g, t, K) values of the kept choices, each at its (expert, slot): (g, t, E, s)."""
        groups, tokens, _ = values.shape
        flat = values.new_zeros(groups, tokens, self.num_experts * self.capacity)
        index = self.experts * self.capacity + self.position.clamp(0, self.capacity - 1)
        flat = flat.scatter_add(-1, index, values * self.kept)
        return flat.view(groups, tokens, self.num_experts, self.capacity)

    def combine_weights(self) -> Tensor:
        kept = self.weights * self.kept
        return torch.zeros_like(self.gates, dtype=kept.dtype).scatter_add(-1, self.experts, kept)

    def taken(self) -> Tensor:
        return torch.zeros_like(self.gates, dtype=torch.bool).scatter(-1, self.experts, self.kept)

    def sought(self) -> Tensor:
        real = torch.ones_like(self.kept) if self.chosen is None else self.chosen
        return torch.zeros_like(self.gates, dtype=torch.bool).scatter(-1, self.experts, real)

    def _counted(self, mask: Tensor) -> Tensor:
        counts = self.experts.new_zeros(self.experts.shape[0], self.num_experts)
        return counts.scatter_add(1, self.experts.flatten(1), mask.flatten(1).long())

    def expert_load(self) -> Tensor:
        return self._counted(self.kept)

    def demand(self) -> Tensor:
        return self._counted(torch.ones_like(self.kept) if self.chosen is None else self.chosen)

    def token_coverage(self) -> Tensor:
        return self.kept.sum(-1)

    def first_choice(self) -> Tensor:
        return self.experts[..., 0]


@dataclass(frozen=True, eq=False)
class GroupChoiceRouting(TokenChoiceRouting):
    """All tokens of a group go to one expert, with weight 1."""

    @classmethod
    def of(cls, gates: Tensor, experts: Tensor, allowed: Tensor | None = None) -> Self:
        """Send each group to its expert, with weight 1.

        Args:
            gates: (g, t, E).
            experts: (g, 1) long.
            allowed: (g, t, 1) bool, tokens that may go there; None for all.
        """
        choices = experts.unsqueeze(-1).expand(*gates.shape[:2], 1)
        weights = gates.new_ones(choices.shape)
        if allowed is not None:
            weights = weights.masked_fill(~allowed, 0)
        slots = max(1, gates.shape[1])
        return cls.from_choices(gates, choices, weights, slots, chosen=allowed)

    @property
    def group_experts(self) -> Tensor:
        """(g,) long: the expert of each group."""
        return self.experts[:, 0, 0]

    @property
    def slot_count(self) -> int:
        """The number of tokens: each group runs through its own expert, and no slot stays empty."""
        return self.gates.shape[:2].numel()


def queue_positions(
    experts: Tensor, num_experts: int, priority: Tensor | None, chosen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return each choice's place in its expert's queue: all first choices, then all second ones.

    Among choices of the same rank the highest `priority` is served first; a choice that is not real
    (`chosen`) takes no place.

    Returns:
        (g, t, K) long, from 0, and the length of the longest queue.
    """
    groups, tokens, choices = experts.shape
    if chosen is not None:
        experts = experts.masked_fill(~chosen, num_experts)  # an expert that has no queue
    order = None if priority is None else priority.argsort(dim=1, descending=True, stable=True)
    if order is not None:
        experts = experts.gather(1, order.unsqueeze(-1).expand_as(experts))
    queued = experts.transpose(1, 2).reshape(groups, 1, choices * tokens)
    index = torch.arange(num_experts, device=experts.device).view(1, -1, 1)
    arrival = (queued == index).cumsum(-1)
    if chosen is not None:
        queued = queued.clamp(max=num_experts - 1)
    position = arrival.gather(1, queued).view(groups, choices, tokens).transpose(1, 2) - 1
    if order is not None:
        served = torch.empty_like(position)
        position = served.scatter_(1, order.unsqueeze(-1).expand_as(position), position)
    return position, arrival[..., -1].max() if experts.numel() else arrival.new_zeros(())
