"""Families of comparisons that are declared beforehand, and those of the A/A control."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Generic, TypeVar, cast

import numpy as np
from scipy import special

from results.statistics.blocks import noise
from results.statistics.largest_t import LargestT
from results.statistics.means import ALPHA, PairedDifference, fewest, paired_difference, power_at

NULLS = ("dense", "dense_params", "random", "frozen")
"""Null models of every router: no experts, equal parameters, random choice, no learnt choice."""

BySeed = Mapping[int, float]
System = TypeVar("System", bound=Hashable)


@dataclass(frozen=True)
class Compared(Generic[System]):
    """The difference `entry` minus `reference`, over the seeds that both have.

    Attributes:
        difference: None if they share no seed. Its interval is simultaneous: with 95 % confidence
            those of the whole family hold, at any interim analysis. Its p-value is for this
            difference alone.
        adjusted: the p-value adjusted for the family and the interim analyses; None without a test.
        family: the number of comparisons with enough seeds, over which it was adjusted.
        deviation: the moderated standard deviation of the paired differences; None without a test.
        degrees: its degrees of freedom.
        share: the share of the two systems' own noise estimates in its variance, the lesser of the
            two; None without a test or in a family of two systems.
        noisy: which of the two are so noisy that only their own noise estimate counts.
        largest: the distribution by which it was adjusted.
    """

    entry: System
    reference: System
    difference: PairedDifference | None
    adjusted: float | None = None
    family: int = 0
    deviation: float | None = None
    degrees: float | None = None
    share: float | None = None
    noisy: tuple[System, ...] = ()
    largest: LargestT | None = None

    @property
    def resolved(self) -> bool:
        """Whether the two differ at the family's error rate."""
        return self.adjusted is not None and self.adjusted < ALPHA

    def seeds_needed(self, analyses: int = 1, power: float = 0.8) -> int | None:
        """Return the fewest seeds at which the family's test finds a gap of this size.

        Mean and deviation are assumed to be the true ones. None if nothing can be said.
        """
        if self.difference is None or self.largest is None or not self.difference.mean:
            return None
        effect, known = self.difference.mean / cast(float, self.deviation), self.difference.n - 1
        per_seed, largest = cast(float, self.degrees) / known, self.largest

        def is_enough(n: int) -> bool:
            degrees = per_seed * (n - 1)
            critical = float(largest.critical(np.array(degrees), ALPHA / analyses))
            return power_at(effect, n, degrees, critical) >= power

        return fewest(is_enough)


def declared(systems: Sequence[System], nulls: Iterable[System]) -> list[tuple[System, System]]:
    """Return each system against each null, then all pairs of systems, as (system, reference).

    The best system is chosen after seeing the results, so only a family of all pairs controls the
    error rate of comparisons with it. Nulls are not compared with each other.
    """
    against = [(system, null) for null in nulls for system in systems]
    return against + list(combinations(systems, 2))


def family(
    values: Mapping[System, BySeed],
    pairs: Iterable[tuple[System, System]],
    analyses: int = 1,
    others: Sequence[Mapping[System, BySeed]] = (),
) -> list[Compared[System]]:
    """Compare each pair, with tests and intervals that hold for all pairs at once.

    Each system's noise is estimated from all systems (see `blocks`), and tests use the
    distribution of the family's largest |t| (see `largest_t`).

    Args:
        values: each system's numbers by seed.
        pairs: the pairs that `declared` returns; a system without values shares no seed with any.
        analyses: the number of planned interim analyses. Bonferroni over them: p-values times
            `analyses`, intervals at a confidence of 1 - 0.05 / `analyses`, valid at each.
        others: the values under other conditions, which also inform the noise estimate.
    """
    compared = [_compare(values, *pair) for pair in pairs]
    tests = [place for place, c in enumerate(compared) if c.difference and c.difference.n > 1]
    tested = [compared[place] for place in tests]
    for place, c in zip(tests, _tested(values, tested, analyses, others), strict=True):
        compared[place] = c
    return [replace(c, family=len(tests)) for c in compared]


def _compare(
    values: Mapping[System, BySeed], system: System, reference: System
) -> Compared[System]:
    ours, theirs = values.get(system, {}), values.get(reference, {})
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return Compared(system, reference, None)
    difference = paired_difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    return Compared(system, reference, difference)


def _tested(
    values: Mapping[System, BySeed],
    compared: Sequence[Compared[System]],
    analyses: int,
    others: Sequence[Mapping[System, BySeed]],
) -> list[Compared[System]]:
    """Return the comparisons with tests and intervals, all based on one noise estimate."""
    if not compared:
        return []
    entries = {c.entry for c in compared}
    systems = list(dict.fromkeys([*(c.entry for c in compared), *(c.reference for c in compared)]))
    largest = LargestT.of_family(len(entries), len(systems) - len(entries))
    matrices = [_matrix(values, systems), *(_matrix(each, list(each)) for each in others)]
    own = noise([matrix for matrix in matrices if np.isfinite(matrix).any()])[0]
    one, other = (
        np.array([systems.index(system) for system in side])
        for side in zip(*((c.entry, c.reference) for c in compared), strict=True)
    )
    variance, degrees = own.of_difference(one, other)
    differences = [cast(PairedDifference, c.difference) for c in compared]
    errors = np.sqrt(variance / [difference.n for difference in differences])
    means = np.array([difference.mean for difference in differences])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = means / errors
    halves = largest.critical(degrees, ALPHA / analyses) * errors
    alone, adjusted = 2 * special.stdtr(degrees, -np.abs(t)), largest.exceeds(t, degrees)
    made = []
    for place, c in enumerate(compared):
        if not (np.isfinite(means[place]) and errors[place] > 0):
            made.append(_untested(c))
            continue
        ends = means[place] - halves[place], means[place] + halves[place]
        difference = replace(
            differences[place],
            low=float(ends[0]),
            high=float(ends[1]),
            p_value=min(1.0, analyses * float(alone[place])),
        )
        shares = own.shares[[one[place], other[place]]]
        both = zip((c.entry, c.reference), shares, strict=True)
        made.append(
            replace(
                c,
                difference=difference,
                adjusted=min(1.0, analyses * float(adjusted[place])),
                deviation=float(np.sqrt(variance[place])),
                degrees=float(degrees[place]),
                share=float(shares.min()) if own.shares.any() else None,
                noisy=tuple(system for system, share in both if share == 1),
                largest=largest,
            )
        )
    return made


def _untested(compared: Compared[System]) -> Compared[System]:
    """Return a comparison that has no noise without a test, unless all differences are zero."""
    difference = cast(PairedDifference, compared.difference)
    if difference.p_value == 1 and difference.low == difference.high == 0:
        return replace(compared, adjusted=1.0)
    return replace(compared, difference=replace(difference, low=None, high=None, p_value=None))


def _matrix(values: Mapping[System, BySeed], systems: Sequence[System]) -> np.ndarray:
    """Return the values of systems by seed, NaN if missing or infinite: (systems, seeds)."""
    seeds = sorted({seed for system in systems for seed in values[system]})
    rows = [[values[system].get(seed, np.nan) for seed in seeds] for system in systems]
    matrix = np.array(rows, dtype=float).reshape(len(systems), len(seeds))
    return np.where(np.isfinite(matrix), matrix, np.nan)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust a family's p-values by Holm; rejecting those below alpha gives error rate alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


@dataclass(frozen=True)
class Alarms:
    """Number of tests, and of those that found a difference where there is none, with an interval.

    Attributes:
        low, high: Clopper and Pearson's exact 95 % interval of the rate.
    """

    raised: int
    tests: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The share of tests that raised an alarm."""
        return self.raised / self.tests


def alarms(p_values: Sequence[float]) -> Alarms:
    """Count how often the p-values of true null differences are below 0.05.

    Raises:
        ValueError: there are no tests.
    """
    from scipy import stats  # slow to import

    if not len(p_values):
        raise ValueError("no tests to count the alarms of")
    raised = sum(p < ALPHA for p in p_values)
    interval = stats.binomtest(raised, len(p_values)).proportion_ci(0.95, method="exact")
    return Alarms(raised, len(p_values), float(interval.low), float(interval.high))


def noise_floor(differences: Sequence[float], n: int) -> float:
    """Return the bound below which two means of `n` runs differ by chance in 95 % of all cases.

    The true mean of the differences is known to be zero, so it is not estimated: their root mean
    square has as many degrees of freedom as there are differences.

    Args:
        differences: paired differences of runs that differ only in their random numbers.

    Raises:
        ValueError: there are no differences.
    """
    sample = np.asarray(differences, dtype=float)
    if not len(sample):
        raise ValueError("no differences to take a noise floor from")
    deviation = np.sqrt(np.mean(sample**2))
    return float(special.stdtrit(len(sample), 1 - ALPHA / 2) * deviation / np.sqrt(n))
