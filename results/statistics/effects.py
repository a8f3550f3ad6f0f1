"""How large a difference is, in units that do not hang on the metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z of paired differences with Hedges' exact correction for few pairs.

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
    """The probability that a run of `a` beats a run of `b`, ties half; None without runs.

    Over all pairs of runs, whatever their seeds: Mann and Whitney's U over their number.
    """
    if not len(a) or not len(b):
        return None
    return float(stats.mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b)))
