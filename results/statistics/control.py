"""What chance alone does: of runs that differ in nothing but their random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from results.statistics.paired import ALPHA


@dataclass(frozen=True)
class Alarms:
    """How many tests found a difference where there is none, of how many, and the rate's interval.

    Attributes:
        low, high: of Clopper and Pearson's exact interval at 95 %.
    """

    raised: int
    tests: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The share of the tests."""
        return self.raised / self.tests


def alarms(p_values: Sequence[float], alpha: float = ALPHA) -> Alarms:
    """Find how often p-values of differences that are none lie below `alpha`.

    Raises:
        ValueError: there is no test.
    """
    if not len(p_values):
        raise ValueError("no tests to count the alarms of")
    raised = sum(p < alpha for p in p_values)
    interval = stats.binomtest(raised, len(p_values)).proportion_ci(0.95, method="exact")
    return Alarms(raised, len(p_values), float(interval.low), float(interval.high))


def noise_floor(differences: Sequence[float], n: int, confidence: float = 1 - ALPHA) -> float:
    """Bound what two means of `n` runs differ by, in 95 % of all cases, by chance alone.

    The true mean of the differences is known to be zero, so none is estimated: the root of their
    mean square has as many degrees of freedom as there are differences.

    Args:
        differences: paired, of runs that differ in nothing but their random numbers.

    Raises:
        ValueError: there is no difference.
    """
    sample = np.asarray(differences, dtype=float)
    if not len(sample):
        raise ValueError("no differences to take a noise floor from")
    deviation = np.sqrt(np.mean(sample**2))
    return float(special.stdtrit(len(sample), (1 + confidence) / 2) * deviation / np.sqrt(n))
