"""Means over seeds with intervals, and paired differences of runs that share their seed.

Runs of one seed share data order and initial weights. scipy holds the distributions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

ALPHA = 0.05
"""The error rate of every family of tests; intervals have a confidence of one less this."""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and, where there can be one, its confidence interval."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The mean of `a - b` over `n` pairs, with its interval."""

    correlation: float | None
    """Pearson's, of the pairs; None below three pairs, or where one side does not vary."""
    p_value: float | None
    """Two-sided paired t-test; None where there is no interval."""


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute the mean with Student's t interval; equal values have one of width 0.

    A single value has no interval, nor have values of which one is not finite; their mean is NaN.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n == 0:
        raise ValueError("no values to take the mean of")
    if not np.isfinite(sample).all():
        return Interval(n, float("nan"), None, None)
    mean = float(sample.mean())
    if n == 1:
        return Interval(n, mean, None, None)
    width = float(special.stdtrit(n - 1, (1 + confidence) / 2) * _standard_error(sample))
    return Interval(n, mean, mean - width, mean + width)


def _standard_error(sample: np.ndarray) -> float:
    return float(sample.std(ddof=1) / np.sqrt(len(sample)))


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """Find how much larger `a` is than `b`, pair by pair (the same seed at the same place in both).

    Differences that are all alike, but not zero, have neither interval nor test. Accuracies are
    counts of images, so that of three seeds this is no miracle, and t would call it certain.

    Raises:
        ValueError: the two are not equally long, or empty.
    """
    differences = paired(a, b)
    interval = mean_interval(differences.tolist(), confidence)
    if interval.low is not None and np.ptp(differences) == 0 and interval.mean != 0:
        interval = replace(interval, low=None, high=None)
    return PairedDifference(
        **vars(interval),
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
    differences, rounding = first - second, 1e-12 * np.abs([first, second]).max(initial=0.0)
    if len(differences) and np.ptp(differences) <= rounding:
        return np.full_like(differences, differences[0] if abs(differences[0]) > rounding else 0.0)
    return differences


def _t_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a mean of zero; 1 where all are zero."""
    mean, error = float(differences.mean()), _standard_error(differences)
    if error == 0:
        return 1.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(mean) / error))


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def effect_size(differences: Sequence[float]) -> float | None:
    """Compute Cohen's d_z of paired differences, with Hedges' exact correction for few pairs.

    Mean over standard deviation, times Γ(m/2) / (√(m/2) Γ((m-1)/2)) at m = n - 1 degrees of
    freedom. None below three pairs, and where the differences are all alike.

    Source: Hedges, "Distribution theory for Glass's estimator of effect size", 1981.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 3 or not np.isfinite(sample).all() or np.ptp(sample) == 0:
        return None
    half = (len(sample) - 1) / 2
    log_correction = special.gammaln(half) - special.gammaln(half - 0.5) - np.log(half) / 2
    return float(sample.mean() / sample.std(ddof=1) * np.exp(log_correction))


def superiority(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the probability that a run of `a` beats a run of `b`, ties half; None without runs.

    Over all pairs of runs, whatever their seeds: Mann and Whitney's U over their number.
    """
    from scipy import stats  # slow to import

    if not len(a) or not len(b):
        return None
    return float(stats.mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b)))


def seeds_needed(
    differences: Sequence[float], power: float = 0.8, alpha: float = ALPHA
) -> int | None:
    """Return the fewest pairs at which a two-sided paired t-test finds a gap such as this one.

    Mean and standard deviation of the observed paired differences are taken for the true ones.
    None where nothing can be said: fewer than two differences, all alike, or a mean of zero.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or not np.isfinite(sample).all():
        return None
    if np.ptp(sample) == 0 or sample.mean() == 0:
        return None
    effect = abs(sample.mean()) / sample.std(ddof=1)
    return fewest(lambda n: power_of(effect, n, alpha) >= power)


def fewest(is_enough: Callable[[int], bool]) -> int:
    """Return the fewest pairs, two at least, that are enough; so are all numbers above it.

    Nobody has many millions: the search ends there.
    """
    low, high = 1, 2
    while high < 2**24 and not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:  # enough at `high`, not at `low`
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def power_of(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Compute the power of a two-sided paired t-test of `n` pairs for a standardised effect.

    Args:
        effect: the mean of the differences over their standard deviation (Cohen's d_z), not 0.
    """
    return power_at(effect, n, n - 1, float(special.stdtrit(n - 1, 1 - alpha / 2)))


def power_at(effect: float, n: int, degrees: float, critical: float) -> float:
    """Compute how often |t| exceeds a critical value, of `n` pairs with a standardised effect.

    The square of a noncentral t is a noncentral F, which counts both sides at once.
    """
    return float(1 - special.ncfdtr(1, degrees, n * effect**2, critical**2))
