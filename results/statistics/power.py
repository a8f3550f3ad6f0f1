"""How many seeds a paired t-test needs to tell a difference from none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from results.statistics.correction import ALPHA


def seeds_needed(
    differences: Sequence[float], power: float = 0.8, alpha: float = ALPHA
) -> int | None:
    """The fewest pairs at which a two-sided paired t-test finds a gap such as this one.

    Mean and standard deviation of the observed paired differences are taken for the true ones.
    None where nothing can be said: fewer than two differences, all alike, or a mean of zero.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or not np.isfinite(sample).all():
        return None
    if np.ptp(sample) == 0 or sample.mean() == 0:
        return None
    effect = abs(sample.mean()) / sample.std(ddof=1)
    low, high = 1, 2
    while power_of(effect, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:  # enough at `high`, not at `low`
        middle = (low + high) // 2
        if power_of(effect, middle, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def power_of(effect: float, n: int, alpha: float = ALPHA) -> float:
    """The probability that a two-sided paired t-test of `n` pairs finds a standardised effect.

    The square of a noncentral t is a noncentral F, which counts both sides at once.

    Args:
        effect: the mean of the differences over their standard deviation (Cohen's d_z), above 0.
    """
    critical = float(special.stdtrit(n - 1, 1 - alpha / 2)) ** 2
    return float(1 - special.ncfdtr(1, n - 1, n * effect**2, critical))
