"""Simulate how often a report's comparisons err and what they detect; print Markdown tables.

    python tools/power_simulation.py

The tables are in docs/statistics.md. A study is systems × seeds: an effect of each seed, and noise
of standard deviation 1 unless the case says otherwise. All pairs of systems are compared unless
stated otherwise. "Before" means a separate paired t test for each pair, with Holm's correction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from zlib import crc32

import numpy as np
from scipy import special

from results.statistics.blocks import noise
from results.statistics.interim import interim_analyses
from results.statistics.largest_t import LargestT
from results.statistics.means import ALPHA

SEEDS, SYSTEMS = (3, 5, 10), (5, 10, 20)
RATIO = 8.0
"""The ratio of the largest to the smallest variance in cases where variances differ."""
Draw = Callable[[np.random.Generator, int, int, int], np.ndarray]
"""Draws noise for a number of studies, systems and seeds; NaN marks a failed run."""


@dataclass(frozen=True)
class Case:
    """A kind of noise: the head of its column, how to draw it, and its limit on false alarms."""

    name: str
    draw: Draw
    limit: float = 0.075


def with_variances(variances: Callable[[int], Sequence[float] | np.ndarray]) -> Draw:
    """Return a draw of normal noise in which each system has its own variance."""

    def draw(rng: np.random.Generator, studies: int, systems: int, seeds: int) -> np.ndarray:
        deviations = np.sqrt(np.asarray(variances(systems), dtype=float))
        return rng.normal(size=(studies, systems, seeds)) * deviations[:, None]

    return draw


def heavy_tailed(rng: np.random.Generator, studies: int, systems: int, seeds: int) -> np.ndarray:
    """Draw normal noise, but Student's t with 3 degrees of freedom (variance 3) for system 1."""
    drawn = rng.normal(size=(studies, systems, seeds))
    drawn[:, 0] = rng.standard_t(3, size=(studies, seeds))
    return drawn


def failed(draw: Draw) -> Draw:
    """Return a draw of the same noise in which the first system's last seed has failed."""

    def drawn(rng: np.random.Generator, studies: int, systems: int, seeds: int) -> np.ndarray:
        values = draw(rng, studies, systems, seeds)
        values[:, 0, -1] = np.nan
        return values

    return drawn


def one_of(ratio: float, systems: int) -> list[float]:
    """Return variances of 1 for all systems but the first, which has variance `ratio`."""
    return [ratio] + [1.0] * (systems - 1)


EQUAL = with_variances(partial(one_of, 1.0))
ONE = with_variances(partial(one_of, RATIO))
HALF = with_variances(lambda k: [RATIO] * (k // 2) + [1.0] * (k - k // 2))
CASES = (
    Case("equal variances", EQUAL, ALPHA),
    Case("half have ×8", HALF),
    Case("one has ×8", ONE),
    Case("from 1 to ×8", with_variances(lambda systems: RATIO ** np.linspace(0, 1, systems))),
    Case("one heavy-tailed", heavy_tailed),
    Case("a failed seed", failed(EQUAL)),
    Case("×8 and failed", failed(ONE)),
)


@dataclass(frozen=True)
class Pairs:
    """The comparisons of all studies: (studies, pairs) each, except `seeds`, (pairs,)."""

    means: np.ndarray
    errors: np.ndarray
    degrees: np.ndarray
    seeds: np.ndarray
    largest: LargestT

    def halves(self, alpha: float = ALPHA) -> np.ndarray:
        """Compute half the width of each simultaneous interval."""
        return self.largest.critical(self.degrees, alpha) * self.errors

    def misses(self, alpha: float = ALPHA) -> np.ndarray:
        """Tell which intervals miss 0, the true difference: these are false alarms."""
        return np.abs(self.means) > self.halves(alpha)


def compared(values: np.ndarray, nulls: int = 0, others: Sequence[np.ndarray] = ()) -> Pairs:
    """Compare by the report's method. The last `nulls` systems are not compared with each other."""
    routers = values.shape[1] - nulls
    pairs = [(i, j) for i, j in combinations(range(values.shape[1]), 2) if i < routers]
    one, other = np.array(pairs).T
    variance, degrees = noise([values, *others])[0].of_difference(one, other)
    differences = values[:, one] - values[:, other]
    seeds = np.isfinite(differences[0]).sum(-1)
    largest = LargestT.of_family(routers, nulls)
    return Pairs(np.nanmean(differences, -1), np.sqrt(variance / seeds), degrees, seeds, largest)


def separate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard error of each pair by itself, as before."""
    one, other = np.array(list(combinations(range(values.shape[1]), 2))).T
    differences = values[:, one] - values[:, other]
    return differences.mean(-1), differences.std(-1, ddof=1) / np.sqrt(values.shape[2])


def resolved_by_holm(means: np.ndarray, errors: np.ndarray, degrees: int) -> np.ndarray:
    """Tell which differences separate t tests resolve with Holm's correction."""
    p_values = 2 * special.stdtr(degrees, -np.abs(means / errors))
    order = np.argsort(p_values, -1)
    steps = np.arange(p_values.shape[-1], 0, -1)
    sorted_p = np.take_along_axis(p_values, order, -1)
    rejected = np.logical_and.accumulate(sorted_p * steps < ALPHA, -1)
    resolved = np.empty_like(rejected)
    np.put_along_axis(resolved, order, rejected, -1)
    return resolved


def generator(*place: object) -> np.random.Generator:
    """Return the random generator of a cell, which is independent of what was simulated before."""
    return np.random.default_rng(crc32(repr(place).encode()))


@dataclass(frozen=True)
class Errors:
    """The share of studies with a false alarm, and of intervals that cover the true value."""

    alarms: float
    coverage: float


def errors(case: Case, seeds: int, systems: int, studies: int, nulls: int = 0) -> Errors:
    """Simulate studies without any true difference, and return their errors."""
    drawn = case.draw(generator(case.name, seeds, systems, nulls), studies, systems, seeds)
    missed = compared(drawn, nulls).misses()
    return Errors(missed.any(-1).mean(), 1 - missed.mean())


def gap_by_power(values: np.ndarray, power: float) -> float:
    """Return the gap, in deviations of paired differences, that this share of comparisons finds.

    Only comparisons of the first system count; it surpasses each other one by the gap.
    """
    pairs = compared(values)
    first = values.shape[1] - 1
    reached = pairs.halves()[:, :first] - pairs.means[:, :first]
    return float(np.quantile(reached, power) / np.sqrt(2))


def power_at(values: np.ndarray, gap: float) -> float:
    """Return the share of the first system's comparisons that find a gap."""
    pairs = compared(values)
    first = values.shape[1] - 1
    resolved = np.abs(pairs.means + gap * np.sqrt(2)) > pairs.halves()
    return float(resolved[:, :first].mean())


def power_before(values: np.ndarray, gap: float) -> float:
    """Return the share of gaps that separate tests with Holm's correction find."""
    means, deviations = separate(values)
    first = values.shape[1] - 1
    means[:, :first] += gap * np.sqrt(2)
    return float(resolved_by_holm(means, deviations, values.shape[2] - 1)[:, :first].mean())


def gap_before(values: np.ndarray, power: float) -> float:
    """Return the gap that separate tests find with this power, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(14):
        middle = (low + high) / 2
        enough = power_before(values, middle) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def over_conditions(variances: Sequence[float], seeds: int, systems: int, studies: int) -> float:
    """Return the false alarms of the first condition when conditions have these variances."""
    rng = generator("conditions", *variances, seeds, systems)
    drawn = [np.sqrt(v) * EQUAL(rng, studies, systems, seeds) for v in variances]
    return float(compared(drawn[0], others=drawn[1:]).misses().any(-1).mean())


def over_analyses(case: Case, most: int, systems: int, studies: int) -> float:
    """Return the share of studies with a false alarm at any interim analysis from 3 seeds on."""
    planned = interim_analyses(3, most)
    drawn = case.draw(generator(case.name, "analyses", most, systems), studies, systems, most)
    at_each = [compared(drawn[:, :, :n]).misses(ALPHA / len(planned)).any(-1) for n in planned]
    return float(np.any(at_each, 0).mean())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def print_errors(studies: int) -> None:
    """Print, for each cell, the false alarms and the coverage averaged over pairs."""
    heads = ["seeds", "systems", *(case.name for case in CASES)]
    sizes = [(seeds, systems) for seeds in SEEDS for systems in SYSTEMS]
    cells = {size: [errors(case, *size, studies) for case in CASES] for size in sizes}
    print("False alarms, % of studies:\n")
    print(table(heads, ([*map(str, s), *(percent(e.alarms) for e in cells[s])] for s in sizes)))
    print("Coverage of the simultaneous intervals, averaged over pairs, %:\n")
    print(table(heads, ([*map(str, s), *(percent(e.coverage) for e in cells[s])] for s in sizes)))
    print("False alarms of families with nulls, % of studies:\n")
    families = [(seeds, routers, 4) for seeds in (3, 5) for routers in (1, 2, 6)]
    rows = (
        [
            *map(str, (seeds, routers, nulls)),
            *(percent(errors(c, seeds, routers + nulls, studies, nulls).alarms) for c in CASES),
        ]
        for seeds, routers, nulls in families
    )
    print(table(["seeds", "routers", "nulls", *heads[2:]], rows))


def print_power(studies: int) -> None:
    """Print the power at equal variances, and the smallest gap found with a power of 80 %."""
    rows, gaps = [], []
    for seeds in SEEDS:
        cells = [seeds_by_gap(seeds, systems, studies) for systems in SYSTEMS]
        gaps.append([str(seeds), *(gap for gap, _ in cells)])
        rows.append([str(seeds), *(power for _, power in cells)])
    heads = ["seeds", *(f"{systems} systems" for systems in SYSTEMS)]
    print("Smallest gap with a power of 80 %, in standard deviations, before → now:\n")
    print(table(heads, gaps))
    print("Power, %, for gaps of 3, 2 and 1.5 standard deviations, before → now:\n")
    print(table(heads, rows))


def seeds_by_gap(seeds: int, systems: int, studies: int) -> tuple[str, str]:
    """Return the smallest gap and the power at three gaps, each before and now."""
    drawn = EQUAL(generator("power", seeds, systems), studies, systems, seeds)
    gap = f"{gap_before(drawn, 0.8):.1f} → {gap_by_power(drawn, 0.8):.1f}"
    powers = (
        f"{100 * power_before(drawn, size):.0f} → {100 * power_at(drawn, size):.0f}"
        for size in (3.0, 2.0, 1.5)
    )
    return gap, "; ".join(powers)


def print_the_rest(studies: int) -> None:
    """Print false alarms with other conditions, over analyses, and with one very noisy system."""
    variances = {"1, 1, 1, 1": [1] * 4, "8, 1, 1, 1": [8, 1, 1, 1], "8, 8, 1, 1": [8, 8, 1, 1]}
    sizes = [(seeds, systems) for seeds in SEEDS for systems in SYSTEMS]
    print("False alarms under the first of four conditions, by their variances, % of studies:\n")
    rows = (
        [*map(str, s), *(percent(over_conditions(v, *s, studies)) for v in variances.values())]
        for s in sizes
    )
    print(table(["seeds", "systems", *variances], rows))
    print("False alarms at any interim analysis from 3 seeds on, % of studies:\n")
    plans = [(most, systems) for most in (6, 20) for systems in SYSTEMS]
    rows = (
        [*map(str, plan), *(percent(over_analyses(case, *plan, studies)) for case in CASES[:5])]
        for plan in plans
    )
    print(table(["seeds at most", "systems", *(case.name for case in CASES[:5])], rows))
    print("False alarms where one system has far more noise, % of studies:\n")
    ratios = [Case(f"one has ×{r}", with_variances(partial(one_of, r))) for r in (20, 100)]
    rows = (
        [*map(str, s), *(percent(errors(r, *s, studies).alarms) for r in ratios)] for s in sizes
    )
    print(table(["seeds", "systems", *(case.name for case in ratios)], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=2000, help="studies per cell (2000)")
    number = parser.parse_args().studies
    print_errors(number)
    print_power(number)
    print_the_rest(number)
