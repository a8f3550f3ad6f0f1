"""Pareto fronts of systems by two aims: as good as possible, at as little as possible."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

ALIKE = 0.01
"""Costs that differ by less, relative, count as the same."""


def fronts(systems: Mapping[Name, tuple[float, float]]) -> dict[Name, int]:
    """The front of each system: 1 where none dominates it, 2 where only those of front 1 do, …

    Another dominates it that is better at no more cost, or as good at less. Systems of one front
    share their rank: none of them is to be preferred to another by both aims.

    Args:
        systems: value, the higher the better, and cost, of each.
    """
    left, front = dict(systems), 1
    found: dict[Name, int] = {}
    while left:
        best = [name for name in left if not any(_dominates(left[o], left[name]) for o in left)]
        found |= dict.fromkeys(best, front)
        left = {name: left[name] for name in left if name not in found}
        front += 1
    return found


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    (value, cost), (its_value, its_cost) = one, other
    better_at_no_more = value > its_value and cost <= its_cost * (1 + ALIKE)
    as_good_at_less = value >= its_value and cost < its_cost * (1 - ALIKE)
    return better_at_no_more or as_good_at_less
