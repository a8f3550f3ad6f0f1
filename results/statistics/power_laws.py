"""Power laws y = a · x^b over trials, with the interval of b, and what speaks against one.

Least squares on log y against log x, with an offset for each seed, since runs of one seed share
their data order and initial weights. The interval of b is Student's t. Whether a line is enough is
tested against a free mean for each x (lack of fit, an F test), which few seeds can refute and seeds
that do not differ cannot: so R² has a least value, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from results.statistics.means import ALPHA

FEWEST = 3
"""Values of x; through two goes any power law."""
LEAST_R_SQUARED = 0.9
"""Of log y, for a law to be said to fit."""
NOTHING = 1e-18
"""A sum of squares over the whole below this is rounding."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law, y = factor · x^exponent.

    Attributes:
        low, high: of the exponent; None where there are no degrees of freedom.
        r_squared: share of the variance of log y within seeds; None where y does not vary.
        lack_of_fit: p-value of the F test against a free mean for each x; None without one.
        against: what speaks against the law, in words; "" where it fits.
    """

    exponent: float
    low: float | None
    high: float | None
    factor: float
    r_squared: float | None
    lack_of_fit: float | None
    against: str


def power_law(
    x: Sequence[float], seeds: Sequence[int], y: Sequence[float], confidence: float = 1 - ALPHA
) -> PowerLaw:
    """Fit a power law to one point for each x and seed.

    Raises:
        ValueError: too few x, or a number that has no logarithm; the message says it to readers.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    levels = len(np.unique(across))
    if levels < FEWEST:
        raise ValueError(f"no fit: {levels} values of x, and {FEWEST} are needed")
    if not (np.isfinite([across, up]).all() and (across > 0).all() and (up > 0).all()):
        raise ValueError("no fit: a value is not above 0")
    log_x, log_y = np.log(across), np.log(up)
    of_seed = _indicators(np.asarray(seeds))
    whole, _ = _residuals(of_seed, log_y)
    free, free_rank = _residuals(np.hstack([_indicators(across), of_seed]), log_y)
    if free <= NOTHING * max(whole, 1.0) and len(log_y) > levels:
        # What does not differ between seeds was measured once.
        once = dict(zip(x, y, strict=True))
        return power_law(list(once), [0] * levels, list(once.values()), confidence)
    design = np.column_stack([log_x, of_seed])
    line, rank = _residuals(design, log_y)
    coefficients = np.linalg.lstsq(design, log_y, rcond=None)[0]
    exponent, factor = float(coefficients[0]), float(np.exp(coefficients[1:].mean()))
    low, high = _interval(design, exponent, line, len(log_y) - rank, confidence)
    r_squared = None if whole <= NOTHING else 1 - line / whole
    p = _f_test(line - free, free_rank - rank, free, len(log_y) - free_rank)
    against = _against(r_squared, p, low, high)
    return PowerLaw(exponent, low, high, factor, r_squared, p, against)


def _against(
    r_squared: float | None, p: float | None, low: float | None, high: float | None
) -> str:
    """Say what speaks against a law, the strongest first."""
    if r_squared is None:
        return "no trend: it is the same everywhere"
    if p is not None and p < ALPHA:
        return f"no power law fits: the means leave the line (lack of fit, p = {p:.2g})"
    flat = low is not None and high is not None and low <= 0 <= high
    if r_squared < LEAST_R_SQUARED and (p is None or not flat):
        return f"no power law fits: R² = {r_squared:.2f}, below {LEAST_R_SQUARED}"
    if flat:
        return "no trend: the exponent's interval holds 0"
    return ""


def _indicators(values: np.ndarray) -> np.ndarray:
    """(n, distinct values): 1 where a point has the value."""
    table: np.ndarray = (values[:, None] == np.unique(values)).astype(float)
    return table


def _residuals(design: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Return the sum of squares that a linear model leaves, and its rank."""
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return float(((values - design @ fitted) ** 2).sum()), int(rank)


def _interval(
    design: np.ndarray, exponent: float, left: float, freedom: int, confidence: float
) -> tuple[float | None, float | None]:
    """Return Student's t interval of the first coefficient."""
    if freedom < 1:
        return None, None
    variance = left / freedom * np.linalg.inv(design.T @ design)[0, 0]
    half = float(special.stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(variance))
    return exponent - half, exponent + half


def _f_test(more: float, more_freedom: int, left: float, freedom: int) -> float | None:
    """Return the p-value of `more` squares against those `left`; None without any left."""
    if freedom < 1 or more_freedom < 1:
        return None
    ratio = max(more, 0.0) / more_freedom / (left / freedom)
    return float(special.fdtrc(more_freedom, freedom, ratio))
