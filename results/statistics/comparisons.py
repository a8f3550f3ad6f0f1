"""Families of comparisons: declared beforehand, over interim analyses, and of the A/A control."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np
from scipy import special

from results.statistics.means import ALPHA, PairedDifference, paired_difference

NULLS = ("dense", "dense_params", "random", "frozen")
"""Nulls of every router: no experts, as many parameters, no choice, none learnt."""
FEWEST = 3
"""Seeds at the first interim analysis: below it a t-test finds next to nothing."""

BySeed = Mapping[int, float]
System = TypeVar("System", bound=Hashable)


@dataclass(frozen=True)
class Compared(Generic[System]):
    """`entry` less `reference`, over the seeds that both have.

    Attributes:
        difference: None where no seed is in common.
        adjusted: the p-value over the family and the interim analyses; None without a test.
        family: the number of comparisons, of those with seeds enough, that it was adjusted over.
    """

    entry: System
    reference: System
    difference: PairedDifference | None
    adjusted: float | None = None
    family: int = 0

    @property
    def resolved(self) -> bool:
        """Whether the two differ, at the error rate of the family."""
        return self.adjusted is not None and self.adjusted < ALPHA


def declared(systems: Sequence[System], nulls: Iterable[System]) -> list[tuple[System, System]]:
    """Return each system against each null, then all pairs of systems, as (system, reference).

    The best is chosen after seeing the results: only a family that holds all pairs keeps the error
    rate of the comparisons with it. Nulls are not compared with each other.
    """
    against = [(system, null) for null in nulls for system in systems]
    return against + list(combinations(systems, 2))


def family(
    values: Mapping[System, BySeed], pairs: Iterable[tuple[System, System]], analyses: int = 1
) -> list[Compared[System]]:
    """Return each pair compared, its p-value adjusted by Holm over all of them.

    Args:
        values: a number by seed of each system.
        pairs: the pairs that `declared` returns; systems without values are compared with no seed.
        analyses: the number of interim analyses that were planned. Bonferroni over them: p-values
            times `analyses`, intervals at a confidence of 1 - 0.05 / `analyses`, valid at each.
    """
    compared = [_compare(values, *pair, analyses) for pair in pairs]
    tests = {i: c.difference for i, c in enumerate(compared) if c.difference and c.difference.n > 1}
    # One whose differences are all alike has no test, but was declared, so it counts.
    p_values = [1.0 if test.p_value is None else test.p_value for test in tests.values()]
    adjusted = {
        place: p
        for (place, test), p in zip(tests.items(), holm(p_values), strict=True)
        if test.p_value is not None
    }
    return [
        replace(c, adjusted=adjusted.get(place), family=len(tests))
        for place, c in enumerate(compared)
    ]


def _compare(
    values: Mapping[System, BySeed], system: System, reference: System, analyses: int
) -> Compared[System]:
    ours, theirs = values.get(system, {}), values.get(reference, {})
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return Compared(system, reference, None)
    difference = paired_difference(
        [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], 1 - ALPHA / analyses
    )
    if difference.p_value is not None:
        difference = replace(difference, p_value=min(1.0, analyses * difference.p_value))
    return Compared(system, reference, difference)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust a family's p-values by Holm: reject those below alpha at error rate alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def interim_analyses(first: int, most: int) -> tuple[int, ...]:
    """Return the numbers of seeds to analyse at: `first`, twice as many each time, `most` at last.

    Raises:
        ValueError: `most` is below `first`.
    """
    if not 1 <= first <= most:
        raise ValueError(f"no interim analyses from {first} to {most} seeds")
    planned = [first]
    while planned[-1] * 2 < most:
        planned.append(planned[-1] * 2)
    return tuple(dict.fromkeys([*planned, most]))


def is_decided(difference: PairedDifference, adjusted: float | None, resolve: float) -> bool:
    """Tell whether more seeds would tell nothing that was asked for.

    Either the two differ, or they differ by less than anybody asked to see.

    Args:
        difference: the difference, with its interval at a confidence of 1 - 0.05 / (number of
            interim analyses).
        adjusted: the adjusted p-value, see `Compared`.
        resolve: the smallest difference of interest, in the metric's unit.
    """
    if adjusted is not None and adjusted < ALPHA:
        return True
    low, high = difference.low, difference.high
    return low is not None and high is not None and -resolve <= low and high <= resolve


@dataclass(frozen=True)
class Alarms:
    """Counts of tests, and of those that found a difference where there is none, with the interval.

    Attributes:
        low, high: of Clopper and Pearson's exact interval at 95 %.
    """

    raised: int
    tests: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The share of the tests."""
        return self.raised / self.tests


def alarms(p_values: Sequence[float]) -> Alarms:
    """Find how often p-values of differences that are none lie below 0.05.

    Raises:
        ValueError: there is no test.
    """
    from scipy import stats  # slow to import

    if not len(p_values):
        raise ValueError("no tests to count the alarms of")
    raised = sum(p < ALPHA for p in p_values)
    interval = stats.binomtest(raised, len(p_values)).proportion_ci(0.95, method="exact")
    return Alarms(raised, len(p_values), float(interval.low), float(interval.high))


def noise_floor(differences: Sequence[float], n: int) -> float:
    """Bound what two means of `n` runs differ by, in 95 % of all cases, by chance alone.

    The true mean of the differences is known to be zero, so none is estimated: the root of their
    mean square has as many degrees of freedom as there are differences.

    Args:
        differences: paired, of runs that differ in nothing but their random numbers.

    Raises:
        ValueError: there is no difference.
    """
    sample = np.asarray(differences, dtype=float)
    if not len(sample):
        raise ValueError("no differences to take a noise floor from")
    deviation = np.sqrt(np.mean(sample**2))
    return float(special.stdtrit(len(sample), 1 - ALPHA / 2) * deviation / np.sqrt(n))
