"""Intervals and paired comparisons over seeds. scipy holds the distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and, where there can be one, its confidence interval."""

    n: int
    mean: float
    low: float | None
    high: float | None
    kind: str
    """How the interval was made, or why there is none."""


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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with Student's t interval; one value has none, values all alike one of no width.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n == 0:
        raise ValueError("no values to take the mean of")
    if not np.isfinite(sample).all():
        return Interval(n, float("nan"), None, None, "none: a value is not finite")
    mean = float(sample.mean())
    if n == 1:
        return Interval(n, mean, None, None, "none: a single value")
    width = float(special.stdtrit(n - 1, (1 + confidence) / 2) * _standard_error(sample))
    return Interval(n, mean, mean - width, mean + width, f"Student t, {100 * confidence:g} %")


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: below alpha, all of a family are rejected at error rate alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def _standard_error(sample: np.ndarray) -> float:
    return float(sample.std(ddof=1) / np.sqrt(len(sample)))


def _t_test(differences: np.ndarray) -> float:
    """Two-sided p-value of a mean of zero. Without any spread: 1 at zero, and 0 away from it."""
    mean, error = float(differences.mean()), _standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(mean) / error))


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
