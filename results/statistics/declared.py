"""The comparisons that are declared before any result is seen, and tested as one family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from results.statistics.paired import ALPHA, PairedDifference, holm, paired_difference

NULLS = ("dense", "dense_params", "random", "frozen")
"""What every router is held against: no experts, as many parameters, no choice, none learnt."""

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Compared:
    """`system` less `reference`, over the seeds that both have.

    Attributes:
        difference: None where no seed is in common.
        adjusted: the p-value over the family and the looks; None where there is no test.
        family: the number of comparisons, of those with seeds enough, that it was adjusted over.
    """

    system: str
    reference: str
    difference: PairedDifference | None
    adjusted: float | None = None
    family: int = 0

    @property
    def resolved(self) -> bool:
        """Whether the two differ, at the error rate of the family."""
        return self.adjusted is not None and self.adjusted < ALPHA


def declared(systems: Sequence[str], nulls: Iterable[str]) -> list[tuple[str, str]]:
    """Return each system against each null, then all pairs of systems, as (system, reference).

    The best is chosen after seeing the results: only a family that holds all pairs keeps the error
    rate of the comparisons with it. Nulls are not compared with each other.
    """
    against = [(system, null) for null in nulls for system in systems]
    return against + list(combinations(systems, 2))


def family(
    values: Mapping[str, BySeed], pairs: Iterable[tuple[str, str]], looks: int = 1
) -> list[Compared]:
    """Return each pair compared, its p-value adjusted by Holm over all of them.

    Args:
        values: a number by seed of each system.
        pairs: as `declared` gives them; systems without values are compared with no seed.
        looks: how often a sequential rule was to look. Bonferroni over them: p-values times
            `looks`, intervals at a confidence of 1 - 0.05 / `looks`, valid at each look.
    """
    compared = [_compare(values, *pair, looks) for pair in pairs]
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


def _compare(values: Mapping[str, BySeed], system: str, reference: str, looks: int) -> Compared:
    ours, theirs = values.get(system, {}), values.get(reference, {})
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return Compared(system, reference, None)
    difference = paired_difference(
        [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], 1 - ALPHA / looks
    )
    if difference.p_value is not None:
        difference = replace(difference, p_value=min(1.0, looks * difference.p_value))
    return Compared(system, reference, difference)


FEWEST = 3
"""Seeds at the first look: below it a t-test finds next to nothing."""


def looks(first: int, most: int) -> tuple[int, ...]:
    """Return the numbers of seeds to look at: `first`, twice as many each time, and `most` at last.

    Raises:
        ValueError: `most` is below `first`.
    """
    if not 1 <= first <= most:
        raise ValueError(f"no looks from {first} to {most} seeds")
    planned = [first]
    while planned[-1] * 2 < most:
        planned.append(planned[-1] * 2)
    return tuple(dict.fromkeys([*planned, most]))


def is_decided(difference: PairedDifference, adjusted: float | None, resolve: float) -> bool:
    """Tell whether more seeds would tell nothing that was asked for.

    Either the two differ, or they differ by less than anybody asked to see.

    Args:
        difference: its interval at a confidence of 1 - 0.05 / looks.
        adjusted: the p-value over the family and the looks; None where there is no test.
        resolve: the smallest difference of interest, in the metric's unit.
    """
    if adjusted is not None and adjusted < ALPHA:
        return True
    low, high = difference.low, difference.high
    return low is not None and high is not None and -resolve <= low and high <= resolve
