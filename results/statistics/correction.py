"""Many tests at one error rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALPHA = 0.05
"""The error rate of every family of tests; intervals have a confidence of one less this."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: below alpha, all of a family are rejected at error rate alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()
