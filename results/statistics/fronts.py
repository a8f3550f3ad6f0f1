"""Pareto fronts of systems by two aims: as good as possible, at as little as possible."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import comb
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

ALIKE = 0.01
"""Costs that differ by less, relative, count as the same."""


def fronts(systems: Mapping[Name, tuple[float, float]]) -> dict[Name, int]:
    """Number the front of each system: 1 where none dominates it, 2 where only front 1 does, …

    Another dominates it that is better at no more cost, or as good at less. Systems of one front
    share their rank: none of them is to be preferred to another by both aims.

    Args:
        systems: value, the higher the better, and cost, of each.
    """
    left, front = dict(systems), 1
    front_of: dict[Name, int] = {}
    while left:
        best = [name for name in left if not any(_dominates(left[o], left[name]) for o in left)]
        front_of |= dict.fromkeys(best, front)
        left = {name: left[name] for name in left if name not in front_of}
        front += 1
    return front_of


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    (value, cost), (its_value, its_cost) = one, other
    better_at_no_more = value > its_value and cost <= its_cost * (1 + ALIKE)
    as_good_at_less = value >= its_value and cost < its_cost * (1 - ALIKE)
    return better_at_no_more or as_good_at_less


def expected_best(values: Sequence[float]) -> np.ndarray:
    """Average the best of k of n values, drawn without replacement, for k = 1 … n: (n,).

    As in arXiv 1909.03004 (Dodge et al.), but without replacement: the estimate has no bias, and
    the last one is the best that was found. The i-th smallest value is the best of k in
    C(i − 1, k − 1) of the C(n, k) ways to draw them.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    return np.array(
        [
            sum(comb(i - 1, k - 1) / comb(n, k) * ordered[i - 1] for i in range(k, n + 1))
            for k in range(1, n + 1)
        ]
    )
