"""Paired differences: of runs of one seed, which share data order and initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from results.statistics.intervals import mean_interval, standard_error


@dataclass(frozen=True)
class PairedDifference:
    """The mean of `a - b` over `n` pairs; the interval as in `Interval`."""

    n: int
    mean: float
    low: float | None
    high: float | None
    kind: str
    correlation: float | None
    """Pearson's, of the pairs; None below three pairs, or where one side does not vary."""
    p_value: float | None
    """Two-sided paired t-test; None where there is no interval."""


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """How much larger `a` is than `b`, pair by pair (the same seed at the same place in both).

    Raises:
        ValueError: the two are not equally long, or empty.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need two values each: {len(first)} against {len(second)}")
    differences = first - second
    interval = mean_interval(differences.tolist(), confidence)
    return PairedDifference(
        n=interval.n,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        kind=interval.kind,
        correlation=_correlation(first, second),
        p_value=None if interval.low is None else _t_test(differences),
    )


def _t_test(differences: np.ndarray) -> float:
    """Two-sided p-value of a mean of zero. Without any spread: 1 at zero, and 0 away from it."""
    mean, error = float(differences.mean()), standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(mean) / error))


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
