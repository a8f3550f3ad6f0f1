"""How much systems that share their seeds scatter: randomised blocks, moderated over all systems.

A value is taken for an effect of its system, one of its seed, and noise. Few seeds tell little of
how much noise a system has. So the variance of each is drawn towards that of all systems of its
condition, the closer the less the estimates differ beyond chance; and that of a condition is
raised towards that of all conditions. `tools/power_simulation.py` shows what this is worth.

Sources: Smyth, "Linear models and empirical Bayes methods for assessing differential expression",
2004 (moderated variances); Grubbs, "On estimating precision of measuring instruments and product
variability", 1948 (variances of systems within blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

SHARES = (np.arange(40) + 0.5) / 40
"""The shares of an own estimate in a variance that are weighed against each other."""
PRIOR = SHARES**-0.3
"""Before the data: small shares are a little more likely. Chosen by simulation, as is the rest."""
MOST = 10
"""As many systems tell how much variances differ. With more, those alike would outvote one that
is not."""
STANDS_OUT = 0.02
"""The error rate of the F tests, corrected by Bonferroni, of a system against all others: one that
has too much noise keeps its own variance."""
FEWEST = 5
"""Systems of a condition from which on other conditions count."""
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class Noise:
    """The variance of each system within seeds. Leading axes are studies, computed at once.

    Attributes:
        variances: moderated: (..., systems).
        shares: of a system's own estimate in its variance; 1 where it stands out: (..., systems).
        own: degrees of freedom of each own estimate: (systems,).
        pooled: degrees of freedom of the variance of all systems: (...).
    """

    variances: np.ndarray
    shares: np.ndarray
    own: np.ndarray
    pooled: np.ndarray

    def of_difference(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance of differences seed by seed, and its degrees of freedom.

        By Satterthwaite, of two own estimates and the one of all systems. An own estimate counts
        fewer degrees of freedom than it has, since the largest of many t is larger where their
        variances are estimated apart: one fewer, and as many again as failed runs cost it, but
        three quarters at most. By simulation.

        Args:
            one, other: the places of the systems of each pair.
        """
        a, b = self.variances[..., one], self.variances[..., other]
        sum_of_both = np.maximum(a + b, TINY)
        fewer = np.minimum(2 * self.own - self.own.max() - 1, 0.75 * self.own)
        counted = np.maximum(fewer, 0.4)
        from_own = (
            self.shares[..., one] * (a / sum_of_both) ** 2 / counted[one]
            + self.shares[..., other] * (b / sum_of_both) ** 2 / counted[other]
        )
        from_all = 1 - (self.shares[..., one] * a + self.shares[..., other] * b) / sum_of_both
        pooled = self.pooled[..., None]
        return a + b, np.minimum(pooled, 1 / (from_own + from_all**2 / pooled))


@dataclass(frozen=True)
class _Residuals:
    """What neither the effect of a system nor that of a seed explains.

    Attributes:
        squares: their sum for each system: (..., systems).
        degrees: of freedom in each sum: (systems,).
    """

    squares: np.ndarray
    degrees: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Of all systems alike: (...)."""
        return self.squares.sum(-1) / max(self.freedom, TINY)

    @property
    def freedom(self) -> float:
        return float(self.degrees.sum())

    @property
    def systems(self) -> int:
        """The number of systems that tell something of the noise."""
        return int((self.degrees > 0).sum())


def noise(conditions: Sequence[np.ndarray]) -> list[Noise]:
    """Estimate the noise of each system under each condition.

    Args:
        conditions: the values of each: (..., systems, seeds), NaN where a run failed, which are
            the same runs in all studies.
    """
    residuals = [_residuals(values) for values in conditions]
    return [
        _moderated(each, *_raised(each, [other for other in residuals if other.systems >= FEWEST]))
        for each in residuals
    ]


def _residuals(values: np.ndarray) -> _Residuals:
    """Fit the effects of systems and seeds by least squares."""
    systems, seeds = values.shape[-2:]
    present = np.isfinite(values.reshape(-1, systems, seeds)[0])
    system, seed = np.nonzero(present)
    of_system = np.eye(systems)[system]
    design = np.hstack([of_system, np.eye(seeds)[seed]])
    left_over = np.eye(len(system)) - design @ np.linalg.pinv(design)
    cells = values[..., present]
    residuals = cells @ left_over
    rounding = 1e-12 * np.abs(cells).max(-1, initial=0.0, keepdims=True)
    residuals = np.where(np.abs(residuals) > rounding, residuals, 0.0)
    degrees = np.diag(left_over) @ of_system
    return _Residuals(residuals**2 @ of_system, np.where(degrees > 1e-9, degrees, 0.0))


def _raised(own: _Residuals, others: Sequence[_Residuals]) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of all systems of a condition, and its degrees of freedom.

    It is drawn towards that of all conditions where that is higher. A lower one is not trusted: a
    condition may have more noise than others.
    """
    if own.systems < FEWEST or len(others) < 2:
        return own.variance, np.full(own.variance.shape, own.freedom)
    freedom = np.array([each.freedom for each in others])
    variances = np.stack([each.variance for each in others], -1)
    total = freedom.sum()
    every = (variances * freedom).sum(-1) / total
    share = _share(variances / np.maximum(every, TINY)[..., None], freedom)
    drawn = (1 - share) * every + share * own.variance
    reached = 1 / (share / (own.freedom - 1) + (1 - share) ** 2 / total)
    return np.maximum(drawn, own.variance), np.minimum(reached, total)


def _moderated(residuals: _Residuals, pool: np.ndarray, pooled: np.ndarray) -> Noise:
    """Draw the variance of each system towards the pool of all."""
    systems, informative = residuals.systems, residuals.degrees > 0
    shape = residuals.squares.shape
    if systems < 3:  # of two, nothing tells which has the noise
        alike = np.broadcast_to(pool[..., None], shape)
        return Noise(alike, np.zeros(shape), np.zeros(shape[-1]), pooled)
    own = residuals.degrees * systems / (systems - 1)
    means = residuals.squares / np.maximum(own, TINY)
    centre = means[..., informative].mean(-1, keepdims=True)
    share = _share(means[..., informative] / np.maximum(centre, TINY), own[informative])
    shares = np.where(_stands_out(residuals, own), 1.0, share[..., None]) * informative
    within = means - residuals.variance[..., None] / systems
    alone = np.maximum(within, 0.0) * systems / (systems - 2)
    return Noise((1 - shares) * pool[..., None] + shares * alone, shares, own, pooled)


def _stands_out(residuals: _Residuals, own: np.ndarray) -> np.ndarray:
    """Tell which systems have more noise than the others together: (..., systems)."""
    squares = residuals.squares
    others = (squares.sum(-1, keepdims=True) - squares) / np.maximum(own.sum() - own, TINY)
    ratios = squares / np.maximum(own, TINY) / np.maximum(others, TINY)
    p_values = special.fdtrc(np.maximum(own, TINY), np.maximum(own.sum() - own, TINY), ratios)
    return (own > 0) & (p_values < STANDS_OUT / residuals.systems)


def _share(ratios: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Estimate the share that own variances deserve: (..., variances) to (...).

    True variances are taken for draws from a scaled inverse χ², so that estimates over their mean
    follow F. The share stands for its degrees of freedom, and is the posterior mean.
    """
    half = degrees[:, None] / 2
    half_prior = degrees.max() / 2 * (1 - SHARES) / SHARES
    scaled = half / half_prior
    likelihood = (
        half * np.log(scaled)
        - special.betaln(half, half_prior)
        - (half + half_prior) * np.log1p(scaled * np.maximum(ratios, 0)[..., None])
    ).sum(-2) * min(1.0, MOST / len(degrees))
    posterior = PRIOR * np.exp(likelihood - likelihood.max(-1, keepdims=True))
    return (posterior * SHARES).sum(-1) / posterior.sum(-1)
