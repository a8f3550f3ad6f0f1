"""The distribution of the largest |t| of a declared family, which combines Tukey's and Dunnett's.

Each router is compared with every null and with every other router, using means of equally many
values and one variance estimate. Without nulls this is Tukey's studentized range over √2; with one
router it is Dunnett's two-sided distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

FARTHEST = 13.0
"""The distance between standard normal numbers beyond which the probability is negligible."""
FEWEST_ROUTERS = 3
"""With fewer routers, nulls count as routers."""
TAIL = 1e-12
"""The share of variance estimates that is cut off at each end."""


@dataclass(frozen=True)
class LargestT:
    """The largest |t| over all pairs of `routers`, and of each router with each of `nulls`."""

    routers: int
    nulls: int

    @classmethod
    def of_family(cls, routers: int, nulls: int) -> LargestT:
        """Return the distribution to use for a declared family.

        A router's noise enters all of its comparisons with nulls. In simulations with unequal
        variances and few seeds, Dunnett's distribution therefore errs too often, and that of all
        pairs does not.
        """
        return cls(routers, nulls) if routers >= FEWEST_ROUTERS else cls(routers + nulls, 0)

    def exceeds(self, t: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        """Compute the probability that the largest |t| exceeds each `t`: adjusted p-values.

        Args:
            t: statistics, of any shape and sign.
            degrees: degrees of freedom of the variance of each; broadcast with `t`.
        """
        statistics, own = np.broadcast_arrays(np.abs(t), np.asarray(degrees, dtype=float))
        deviations, weights = _estimates(own)
        beyond = _beyond_at_known_variance(self.routers, self.nulls)
        distances = np.minimum(np.sqrt(2) * statistics[..., None] * deviations, FARTHEST)
        return np.clip((beyond(distances) * weights).sum(-1), 0.0, 1.0)

    def critical(self, degrees: np.ndarray, alpha: float) -> np.ndarray:
        """Compute the values that the largest |t| exceeds with a probability of `alpha`.

        Args:
            degrees: degrees of freedom of the variance of each, at least 0.4.
        """
        inverse = 1 / np.asarray(degrees, dtype=float)
        return np.exp(_log_critical(self.routers, self.nulls, alpha)(inverse))


def _estimates(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 257 values of √(χ² / degrees) and the probability of each: both (..., 257)."""
    half = degrees[..., None] / 2
    low = np.log(special.gammaincinv(half, TAIL) / half)
    high = np.log(special.gammainccinv(half, TAIL) / half)
    logarithms = low + (high - low) * np.linspace(0, 1, 257)
    density = half * (logarithms - np.exp(logarithms))
    weights = np.exp(density - density.max(-1, keepdims=True))
    return np.exp(logarithms / 2), weights / weights.sum(-1, keepdims=True)


@lru_cache(maxsize=64)
def _beyond_at_known_variance(routers: int, nulls: int) -> CubicSpline:
    """Return the probability, by distance, that any compared pair lies further apart."""
    from scipy.interpolate import CubicSpline  # slow to import

    distances = np.linspace(0, FARTHEST, 131)
    return CubicSpline(distances, [_beyond(each, routers, nulls) for each in distances])


def _beyond(distance: float, routers: int, nulls: int) -> float:
    """Integrate over the lowest router and over the highest, at most `distance` above it.

    All nulls then lie at most `distance` below the highest and above the lowest router.
    """
    lowest = np.linspace(-9, 9, 91)[:, None]
    density = _normal(lowest) * (lowest[1] - lowest[0])
    if routers == 1:
        near = special.ndtr(lowest + distance) - special.ndtr(lowest - distance)
        return float(1 - (density * near**nulls).sum())
    nodes, weights = np.polynomial.legendre.leggauss(40)
    highest = lowest + distance * (nodes + 1) / 2
    between = special.ndtr(highest) - special.ndtr(lowest)
    near = special.ndtr(lowest + distance) - special.ndtr(highest - distance)
    both = density * _normal(highest) * weights * distance / 2
    ways = routers * (routers - 1)
    return float(1 - ways * (both * between ** (routers - 2) * near**nulls).sum())


def _normal(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=64)
def _log_critical(routers: int, nulls: int, alpha: float) -> CubicSpline:
    """Return the log of the critical value as a function of the inverse degrees of freedom."""
    from scipy.interpolate import CubicSpline

    inverse = np.linspace(1e-3, np.sqrt(2.5), 80) ** 2
    low, high = np.zeros(len(inverse)), np.full(len(inverse), np.log(1e12))
    for _ in range(60):
        middle = (low + high) / 2
        beyond = LargestT(routers, nulls).exceeds(np.exp(middle), 1 / inverse) > alpha
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return CubicSpline(inverse, high)
