"""Groups with padding: real tokens are routed as if there were no others.

Groups with equally many real tokens are routed at once, and so are all real tokens if the router
ignores groups. So every router is exact in the presence of padding without knowing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routers.errors import RequestError
from routers.layer_info import RouterContext
from routers.routing.base import Routing


@dataclass(frozen=True, eq=False)
class Part:
    """Real tokens that are routed at once.

    Attributes:
        rows: (g', t') long, the row of each token in the flattened (g, t).
    """

    routing: Routing
    rows: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Return the values of these tokens: (g, t, …) -> (g', t', …)."""
        return values.flatten(0, 1)[self.rows]


@dataclass(frozen=True, eq=False)
class PaddedRouting(Routing):
    """A routing of the real tokens only; all its values for padding are 0.

    Attributes:
        parts: the real tokens, each in one part; there is at least one part.
    """

    parts: tuple[Part, ...]

    @classmethod
    def join(cls, parts: Sequence[Part], mask: Tensor) -> Self:
        """Join the routings of all real tokens, which a (g, t) bool mask marks.

        Losses are averaged over the tokens, statistics are summed.
        """
        routings = [part.routing for part in parts]
        first = routings[0]
        rows = [part.rows for part in parts]
        fields = ("gates", "logits", "noisy_logits", "noisy_gates", "hidden")
        spread = {
            name: None
            if getattr(first, name) is None
            else _spread(mask, rows, [getattr(routing, name) for routing in routings])
            for name in fields
        }
        weights = [part.rows.numel() / max(1, int(mask.sum())) for part in parts]
        losses = [
            routing.loss * weight
            for routing, weight in zip(routings, weights, strict=True)
            if routing.loss is not None
        ]
        refused = [routing.refused for routing in routings if routing.refused is not None]
        return cls(
            **spread,  # type: ignore[arg-type]
            parts=tuple(parts),
            mask=mask,
            noise_std=first.noise_std,
            expert_sizes=first.expert_sizes,
            diagnostics={
                name: torch.cat([routing.diagnostics[name] for routing in routings])
                for name in first.diagnostics
            },
            loss=reduce(torch.add, losses) if losses else None,
            refused=reduce(torch.logical_or, refused) if refused else None,
            statistics={
                name: reduce(torch.add, [routing.statistics[name] for routing in routings])
                for name in first.statistics
            },
        )

    def spread(self, of: Callable[[Part], Tensor]) -> Tensor:
        """Put the (g', t', …) values of each part in place: (g, t, …), with 0 for padding."""
        assert self.mask is not None
        return _spread(self.mask, [part.rows for part in self.parts], list(map(of, self.parts)))

    @property
    def constant_load(self) -> bool:  # type: ignore[override]
        return self.parts[0].routing.constant_load

    @property
    def seen_by_all(self) -> bool:  # type: ignore[override]
        return self.parts[0].routing.seen_by_all

    @property
    def choices(self) -> int | None:
        numbers = [part.routing.choices for part in self.parts]
        return max((number for number in numbers if number is not None), default=None)

    @property
    def num_slots(self) -> int:
        return max(part.routing.num_slots for part in self.parts)

    @property
    def slot_count(self) -> int:
        return sum(part.routing.slot_count for part in self.parts)

    def dispatch_tensor(self) -> Tensor:
        return self.spread(lambda part: self._with_all_slots(part.routing.dispatch_tensor()))

    def combine_tensor(self) -> Tensor:
        return self.spread(lambda part: self._with_all_slots(part.routing.combine_tensor()))

    def _with_all_slots(self, values: Tensor) -> Tensor:
        return F.pad(values, (0, self.num_slots - values.shape[-1]))

    def reweighted(self, factors: Tensor) -> Self:
        parts = (replace(part, routing=part.routing.reweighted(factors)) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def combine_weights(self) -> Tensor:
        return self.spread(lambda part: part.routing.combine_weights())

    def taken(self) -> Tensor:
        return self.spread(lambda part: part.routing.taken())

    def sought(self) -> Tensor:
        return self.spread(lambda part: part.routing.sought())

    def demand(self) -> Tensor:
        return self.sought().sum(1)

    def first_choice(self) -> Tensor:
        return self.spread(lambda part: part.routing.first_choice())


def route_padded(
    route: Callable[[Tensor, RouterContext], Routing],
    tokens: Tensor,
    context: RouterContext,
    together: bool,
) -> PaddedRouting:
    """Route only the real tokens, which the context's mask marks.

    Args:
        route: routes tokens (g', t', …) without padding, in the context of these tokens.
        tokens: (g, t, …).
        together: whether all real tokens are one group.

    Raises:
        RequestError: the mask is not (g, t) bool.
    """
    mask = context.mask
    assert mask is not None
    if mask.shape != tokens.shape[:2] or mask.dtype != torch.bool:
        raise RequestError(
            f"a mask of padded tokens is (groups, tokens) bool, here {tuple(tokens.shape[:2])}; "
            f"this one has shape {tuple(mask.shape)} and type {mask.dtype}"
        )
    parts = []
    for rows in _rows_of_parts(mask, together):
        own = tokens.flatten(0, 1)[rows]
        parts.append(Part(route(own, _context_of(rows, context)), rows))
    return PaddedRouting.join(parts, mask)


def _rows_of_parts(mask: Tensor, together: bool) -> list[Tensor]:
    """Return the rows of each part, (g', t') long; groups without real tokens are in none."""
    rows = torch.arange(mask.numel(), device=mask.device).view_as(mask)
    if together:
        return [rows[mask].unsqueeze(0)]
    counts = mask.sum(1)
    sizes = [size for size in counts.unique().tolist() if size]
    same = [(counts == size, size) for size in sizes]
    return [rows[groups][mask[groups]].view(-1, size) for groups, size in same] or [rows[:0]]


def _context_of(rows: Tensor, context: RouterContext) -> RouterContext:
    assert context.mask is not None
    groups, tokens = context.mask.shape
    previous, hidden, labels = context.previous_logits, context.expert_hidden, context.labels
    if labels is not None and len(labels) == groups:
        labels = labels[rows[:, :1].flatten() // max(1, tokens)]

    def own_hidden() -> Tensor:
        assert hidden is not None
        return hidden().flatten(1, 2)[:, rows]

    return replace(
        context,
        mask=None,
        labels=labels,
        previous_logits=None if previous is None else previous.flatten(0, 1)[rows],
        expert_hidden=None if hidden is None else own_hidden,
    )


def _spread(mask: Tensor, rows: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    index = torch.cat([each.flatten() for each in rows])
    flat = torch.cat([each.flatten(0, 1) for each in values])
    every = flat.new_zeros(mask.numel(), *flat.shape[1:])
    return every.index_copy(0, index, flat).view(*mask.shape, *flat.shape[1:])
