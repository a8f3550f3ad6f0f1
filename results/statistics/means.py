"""Means over seeds with intervals, and paired differences of runs that share their seed.

Runs of one seed share data order and initial weights. The distributions come from scipy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

ALPHA = 0.05
"""The error rate of every family of tests; intervals have a confidence of 1 - ALPHA."""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its confidence interval, if it has one."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The mean of `a - b` over `n` pairs, with its interval."""

    correlation: float | None
    """Pearson's correlation of the pairs; None below three pairs, or if one side does not vary."""
    p_value: float | None
    """The p-value of a two-sided paired t-test; None if there is no interval."""


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute the mean with Student's t interval, which has width 0 if all values are equal.

    A single value has no interval. If any value is not finite, the mean is NaN, without interval.

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
    """Compute how much larger `a` is than `b`, pair by pair (both in the same order of seeds).

    If all differences are equal but not zero, there is neither interval nor test: accuracies are
    counts of images, so three seeds can easily agree by chance, and t would call it certain.

    Raises:
        ValueError: the two differ in length, or are empty.
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
    """Return `a - b`, pair by pair, made exactly equal if they differ only by float rounding.

    Raises:
        ValueError: the two differ in length.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need two values each: {len(first)} against {len(second)}")
    differences, rounding = first - second, 1e-12 * np.abs([first, second]).max(initial=0.0)
    if len(differences) and np.ptp(differences) <= rounding:
        return np.full_like(differences, differences[0] if abs(differences[0]) > rounding else 0.0)
    return differences


def _t_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value for a mean of zero; 1 if all differences are zero."""
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

    This is mean over standard deviation, times Γ(m/2) / (√(m/2) Γ((m-1)/2)) at m = n - 1 degrees
    of freedom. None below three pairs, or if all differences are equal.

    Source: Hedges, "Distribution theory for Glass's estimator of effect size", 1981.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 3 or not np.isfinite(sample).all() or np.ptp(sample) == 0:
        return None
    half = (len(sample) - 1) / 2
    log_correction = special.gammaln(half) - special.gammaln(half - 0.5) - np.log(half) / 2
    return float(sample.mean() / sample.std(ddof=1) * np.exp(log_correction))


def superiority(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the probability that a run of `a` beats one of `b`, ties half; None without runs.

    All pairs of runs count, whatever their seeds: this is Mann and Whitney's U over their number.
    """
    from scipy import stats  # slow to import

    if not len(a) or not len(b):
        return None
    return float(stats.mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b)))


def seeds_needed(
    differences: Sequence[float], power: float = 0.8, alpha: float = ALPHA
) -> int | None:
    """Return the fewest pairs at which a two-sided paired t-test finds a gap of this size.

    Mean and standard deviation of the observed paired differences are assumed to be the true ones.
    None if nothing can be said: fewer than two differences, all equal, or a mean of zero.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or not np.isfinite(sample).all():
        return None
    if np.ptp(sample) == 0 or sample.mean() == 0:
        return None
    effect = abs(sample.mean()) / sample.std(ddof=1)
    return fewest(lambda n: power_of(effect, n, alpha) >= power)


def fewest(is_enough: Callable[[int], bool]) -> int:
    """Return the fewest pairs, at least two, that are enough; larger numbers must be enough too.

    The search ends at 2^24, since nobody has that many.
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
        effect: mean of the differences over their standard deviation (Cohen's d_z), nonzero.
    """
    return power_at(effect, n, n - 1, float(special.stdtrit(n - 1, 1 - alpha / 2)))


def power_at(effect: float, n: int, degrees: float, critical: float) -> float:
    """Compute how often |t| exceeds a critical value for `n` pairs with a standardised effect.

    The square of a noncentral t is a noncentral F, which covers both sides at once.
    """
    return float(1 - special.ncfdtr(1, degrees, n * effect**2, critical**2))
