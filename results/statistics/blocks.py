"""Noise of systems that share their seeds: randomised blocks, moderated over all systems.

A value is modelled as an effect of its system, an effect of its seed, and noise. A few seeds say
little about a system's noise, so its variance is shrunk towards that of all systems of its
condition, more strongly the less the estimates differ beyond chance; and a condition's variance is
raised towards that of all conditions. `tools/power_simulation.py` shows what this gains.

Sources: Smyth, "Linear models and empirical Bayes methods for assessing differential expression",
2004 (moderated variances); Grubbs, "On estimating precision of measuring instruments and product
variability", 1948 (variances of systems within blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

SHARES = (np.arange(40) + 0.5) / 40
"""Grid of candidate shares that a system's own estimate has in its variance."""
PRIOR = SHARES**-0.3
"""The prior slightly favours small shares. Chosen by simulation, as are the constants below."""
MOST = 10
"""Evidence on how much variances differ counts as that of at most this many systems. With more,
similar systems would outvote one that differs."""
STANDS_OUT = 0.02
"""The error rate, corrected by Bonferroni, of the F tests of each system against all others; a
system with too much noise keeps its own variance."""
FEWEST = 5
"""Smallest number of systems of a condition at which other conditions count."""
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class Noise:
    """The variance of each system within seeds. Leading axes are studies, computed at once.

    Attributes:
        variances: moderated variances: (..., systems).
        shares: a system's own estimate's share in its variance; 1 if it stands out: (..., systems).
        own: degrees of freedom of each own estimate: (systems,).
        pooled: degrees of freedom of the variance of all systems: (...).
    """

    variances: np.ndarray
    shares: np.ndarray
    own: np.ndarray
    pooled: np.ndarray

    def of_difference(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance of differences seed by seed, and its degrees of freedom.

        Satterthwaite's formula combines the two own estimates and that of all systems. Own degrees
        of freedom are counted lower than they are, since the largest of many t is larger if their
        variances are estimated separately: one fewer, and as many again as failed runs cost, but at
        most three quarters of them count. Chosen by simulation.

        Args:
            one, other: the indices of the systems of each pair.
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
    """Residuals, which neither the system effect nor the seed effect explains.

    Attributes:
        squares: sum of their squares for each system: (..., systems).
        degrees: degrees of freedom of each sum: (systems,).
    """

    squares: np.ndarray
    degrees: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """The variance common to all systems: (...)."""
        return self.squares.sum(-1) / max(self.freedom, TINY)

    @property
    def freedom(self) -> float:
        return float(self.degrees.sum())

    @property
    def systems(self) -> int:
        """The number of systems that carry information about the noise."""
        return int((self.degrees > 0).sum())


def noise(conditions: Sequence[np.ndarray]) -> list[Noise]:
    """Estimate the noise of each system under each condition.

    Args:
        conditions: the values of each: (..., systems, seeds), NaN where a run failed; the same
            runs must have failed in all studies.
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

    It is shrunk towards that of all conditions if that is higher. A lower one is not trusted, since
    a condition may be noisier than others.
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
    """Shrink the variance of each system towards the pooled variance of all."""
    systems, informative = residuals.systems, residuals.degrees > 0
    shape = residuals.squares.shape
    if systems < 3:  # with two, nothing tells which one has the noise
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
    """Tell which systems are noisier than all others together: (..., systems)."""
    squares = residuals.squares
    others = (squares.sum(-1, keepdims=True) - squares) / np.maximum(own.sum() - own, TINY)
    ratios = squares / np.maximum(own, TINY) / np.maximum(others, TINY)
    p_values = special.fdtrc(np.maximum(own, TINY), np.maximum(own.sum() - own, TINY), ratios)
    return (own > 0) & (p_values < STANDS_OUT / residuals.systems)


def _share(ratios: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Estimate the share that own variances deserve: (..., variances) to (...).

    True variances are modelled as draws from a scaled inverse χ², so estimates divided by their
    mean follow F. The share encodes that prior's degrees of freedom; this is its posterior mean.
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
