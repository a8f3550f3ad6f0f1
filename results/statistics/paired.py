"""Paired differences: of runs of one seed, which share data order and initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    Differences that are all alike, but not zero, have neither interval nor test. Accuracies are
    counts of images, so that of three seeds this is no miracle, and t would call it certain.

    Raises:
        ValueError: the two are not equally long, or empty.
    """
    differences = paired(a, b)
    interval = mean_interval(differences.tolist(), confidence)
    if interval.low is not None and np.ptp(differences) == 0 and interval.mean != 0:
        interval = replace(interval, low=None, high=None, kind="none: the differences are alike")
    return PairedDifference(
        n=interval.n,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        kind=interval.kind,
        correlation=_correlation(np.asarray(a, dtype=float), np.asarray(b, dtype=float)),
        p_value=None if interval.low is None else _t_test(differences),
    )


def paired(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """`a - b`, pair by pair; the same number wherever they are alike but for floats' rounding.

    Raises:
        ValueError: the two are not equally long.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need two values each: {len(first)} against {len(second)}")
    found, rounding = first - second, 1e-12 * np.abs([first, second]).max(initial=0.0)
    if len(found) and np.ptp(found) <= rounding:
        return np.full_like(found, found[0] if abs(found[0]) > rounding else 0.0)
    return found


def _t_test(differences: np.ndarray) -> float:
    """Two-sided p-value of a mean of zero; 1 where all are zero."""
    mean, error = float(differences.mean()), standard_error(differences)
    if error == 0:
        return 1.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(mean) / error))


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
