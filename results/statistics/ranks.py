"""Ranks of systems: over conditions (Demšar, JMLR 7, 2006), bootstrapped, and Pareto fronts."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from results.statistics.means import ALPHA

Name = TypeVar("Name", bound=Hashable)

FEWEST_BLOCKS, FEWEST_SYSTEMS = 5, 3
"""Below these, the approximations of Friedman's test are useless."""
ALIKE = 0.01
"""Costs with a smaller relative difference count as equal."""


@dataclass(frozen=True)
class Ranking:
    """The results of Friedman's test and of Nemenyi's test after it.

    Attributes:
        ranks: the average rank of each system, the best first; ties share their rank.
        blocks: the number of conditions.
        chi_squared: Friedman's statistic, corrected for ties, with its p-value.
        f: Iman and Davenport's less conservative statistic, with its p-value.
        critical_difference: average ranks further apart than this differ (Nemenyi).
        pairs: Nemenyi's p-value of each pair, systems by systems.
    """

    ranks: pd.Series
    blocks: int
    chi_squared: float
    chi_squared_p: float
    f: float
    f_p: float
    critical_difference: float
    pairs: pd.DataFrame


def ranking(values: pd.DataFrame) -> Ranking:
    """Rank the systems (columns) within each condition (rows), the highest value first.

    Raises:
        ValueError: a value is missing, or there are fewer than five rows or three columns.
    """
    # Slow to import (it loads statsmodels and seaborn), and few studies have enough conditions.
    import scikit_posthocs

    blocks, systems = values.shape
    if blocks < FEWEST_BLOCKS or systems < FEWEST_SYSTEMS or values.isna().any(axis=None):
        raise ValueError(f"no ranking of {systems} systems under {blocks} conditions, or with gaps")
    test = stats.friedmanchisquare(*(values[name] for name in values))
    chi_squared = float(test.statistic)
    rest = blocks * (systems - 1) - chi_squared
    f = float(np.inf if rest <= 0 else (blocks - 1) * chi_squared / rest)
    return Ranking(
        ranks=values.rank(axis=1, ascending=False).mean().sort_values(kind="stable"),
        blocks=blocks,
        chi_squared=chi_squared,
        chi_squared_p=float(test.pvalue),
        f=f,
        f_p=float(stats.f.sf(f, systems - 1, (systems - 1) * (blocks - 1))),
        critical_difference=critical_difference(systems, blocks),
        pairs=scikit_posthocs.posthoc_nemenyi_friedman(values),
    )


def critical_difference(systems: int, blocks: int) -> float:
    """Compute the smallest difference of average ranks that is significant in Nemenyi's test."""
    quantile = stats.studentized_range.ppf(1 - ALPHA, systems, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(systems * (systems + 1) / (6 * blocks)))


@dataclass(frozen=True)
class RankSpread:
    """The distribution of a system's rank over bootstrap samples.

    Attributes:
        mean: the mean rank; 1 is best.
        low, high: the bounds that hold 95 % of the ranks.
        best: the share of samples in which it leads; systems that tie for the lead divide a sample.
    """

    mean: float
    low: float
    high: float
    best: float


def bootstrap_ranks(values: np.ndarray, samples: int = 4000) -> list[RankSpread]:
    """Rank each system by its mean in bootstrap samples of seeds and of conditions.

    A sample draws one fewer than there are, with replacement: means then vary as much as they truly
    do, while full-size samples vary too little. A seed is drawn for all systems and conditions at
    once, since systems of one seed are paired. Under several conditions, systems are ranked by
    their average rank.

    Args:
        values: (conditions, systems, seeds), NaN where a run failed; each system has at least one
            run under each condition.
    """
    conditions, _, seeds = values.shape
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), samples)
    weights = generator.multinomial(
        max(conditions - 1, 1), np.full(conditions, 1 / conditions), samples
    )
    present = np.isfinite(values)
    counts = np.einsum("bn,ckn->bck", drawn, present)
    sums = np.einsum("bn,ckn->bck", drawn, np.where(present, values, 0.0))
    # It can happen that none of a system's seeds is drawn: the mean over all of them is then used.
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nanmean(values, -1))
    within = stats.rankdata(-means.round(12), axis=-1)
    averages = np.einsum("bc,bck->bk", weights, within) / weights.sum(-1, keepdims=True)
    ranks = stats.rankdata(averages.round(9), axis=-1)
    leads = averages.round(9) == averages.round(9).min(-1, keepdims=True)
    best = (leads / leads.sum(-1, keepdims=True)).mean(0)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    columns = zip(ranks.mean(0).tolist(), low.tolist(), high.tolist(), best.tolist(), strict=True)
    return [RankSpread(*column) for column in columns]


def fronts(systems: Mapping[Name, tuple[float, float]]) -> dict[Name, int]:
    """Return the Pareto front of each system: 1 if none dominates it, 2 if only front 1 does, …

    A system dominates another if it is better at no more cost, or as good at less cost. Systems on
    one front share their rank: none of them dominates another.

    Args:
        systems: the value, the higher the better, and the cost of each system.
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
    """Compute the expected best of k out of n values, for k = 1 … n: (n,).

    As in arXiv 1909.03004 (Dodge et al.), but drawn without replacement: the estimate is unbiased,
    and the last one is the best of all. The i-th smallest value is the best of k in C(i − 1, k − 1)
    of the C(n, k) ways to draw them.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    return np.array(
        [
            sum(comb(i - 1, k - 1) / comb(n, k) * ordered[i - 1] for i in range(k, n + 1))
            for k in range(1, n + 1)
        ]
    )
