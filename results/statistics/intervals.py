"""The mean over seeds with Student's t interval. scipy holds the distribution."""

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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute the mean with Student's t interval; one value has none, equal ones a width of 0.

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
    width = float(special.stdtrit(n - 1, (1 + confidence) / 2) * standard_error(sample))
    return Interval(n, mean, mean - width, mean + width, f"Student t, {100 * confidence:g} %")


def standard_error(sample: np.ndarray) -> float:
    """Compute the standard error of the mean of two values or more."""
    return float(sample.std(ddof=1) / np.sqrt(len(sample)))
