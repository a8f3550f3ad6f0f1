"""Power laws y = a · x^b over trials, with the interval of b and the evidence against the law.

They are fitted by least squares on log y against log x, with an offset for each seed, since runs
of one seed share data order and initial weights. The interval of b is Student's t. An F test for
lack of fit compares the line with a free mean for each x. It has little power with few seeds and
none if seeds do not differ, so R² must also reach a minimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from results.statistics.means import ALPHA

FEWEST = 3
"""Smallest number of values of x; a power law fits any two."""
LEAST_R_SQUARED = 0.9
"""Smallest R² of log y at which a law counts as fitting."""
NOTHING = 1e-18
"""A sum of squares below this, relative to the total, is rounding error."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law, y = factor · x^exponent.

    Attributes:
        low, high: the interval of the exponent; None if there are no degrees of freedom.
        r_squared: explained share of the variance of log y within seeds; None if y does not vary.
        lack_of_fit: p-value of the F test against a free mean for each x; None without a test.
        against: the evidence against the law, in words; "" if it fits.
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
        ValueError: too few values of x, or one without a logarithm; the message is for readers.
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
    if free <= NOTHING * max(whole, 1.0) and len(log_y) > max(levels, free_rank):
        # Values that do not differ between seeds count as measured once.
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
    """Return the strongest evidence against a law, in words; "" if there is none."""
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
    """Return an indicator matrix, 1 where a point has the value: (n, distinct values)."""
    table: np.ndarray = (values[:, None] == np.unique(values)).astype(float)
    return table


def _residuals(design: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Return the residual sum of squares of a linear model, and its rank."""
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
    """Return the p-value of `more` squares against those `left`; None if either has no freedom."""
    if freedom < 1 or more_freedom < 1:
        return None
    ratio = max(more, 0.0) / more_freedom / (left / freedom)
    return float(special.fdtrc(more_freedom, freedom, ratio))
