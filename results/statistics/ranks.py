"""Ranks over several conditions: do systems differ, and which ones (Demšar, JMLR 7, 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from results.statistics.paired import ALPHA

FEWEST_BLOCKS, FEWEST_SYSTEMS = 5, 3
"""Below these, Friedman's test has no approximation worth the name."""


@dataclass(frozen=True)
class Ranking:
    """Friedman's test and what Nemenyi's says after it.

    Attributes:
        ranks: the average rank of each system, the best first; ties share theirs.
        blocks: the number of conditions.
        chi_squared: Friedman's statistic, corrected for ties, with its p-value.
        f: Iman and Davenport's, less conservative, with its p-value.
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
    """Return the systems (columns) ranked within each condition (rows), the highest value first.

    Raises:
        ValueError: a value is missing, or there are fewer than five rows or three columns.
    """
    # Slow to import (it brings statsmodels and seaborn), and few studies have conditions enough.
    import scikit_posthocs

    blocks, systems = values.shape
    if blocks < FEWEST_BLOCKS or systems < FEWEST_SYSTEMS or values.isna().any(axis=None):
        raise ValueError(f"no ranking of {systems} systems under {blocks} conditions, or with gaps")
    test = stats.friedmanchisquare(*(values[name] for name in values))
    f, freedom = _iman_davenport(float(test.statistic), blocks, systems)
    return Ranking(
        ranks=values.rank(axis=1, ascending=False).mean().sort_values(kind="stable"),
        blocks=blocks,
        chi_squared=float(test.statistic),
        chi_squared_p=float(test.pvalue),
        f=f,
        f_p=float(stats.f.sf(f, *freedom)),
        critical_difference=critical_difference(systems, blocks),
        pairs=scikit_posthocs.posthoc_nemenyi_friedman(values),
    )


def critical_difference(systems: int, blocks: int, alpha: float = ALPHA) -> float:
    """Compute the difference of average ranks from which on Nemenyi's test tells systems apart."""
    quantile = stats.studentized_range.ppf(1 - alpha, systems, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(systems * (systems + 1) / (6 * blocks)))


def _iman_davenport(chi_squared: float, blocks: int, systems: int) -> tuple[float, tuple[int, int]]:
    """Iman and Davenport's F of Friedman's statistic, and its degrees of freedom."""
    rest = blocks * (systems - 1) - chi_squared
    f = np.inf if rest <= 0 else (blocks - 1) * chi_squared / rest
    return float(f), (systems - 1, (systems - 1) * (blocks - 1))
