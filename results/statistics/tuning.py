"""What a number of trials is worth: the best of them that is to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np


def expected_best(values: Sequence[float]) -> np.ndarray:
    """The mean of the best of k of these n values, drawn without replacement, for k = 1 … n: (n,).

    As in arXiv 1909.03004 (Dodge et al.), but without replacement: the estimate has no bias, and
    the last one is the best that was found. The i-th smallest value is the best of k in
    C(i − 1, k − 1) of the C(n, k) ways to draw them.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    return np.array(
        [
            sum(comb(i - 1, k - 1) / comb(n, k) * ordered[i - 1] for i in range(k, n + 1))
            for k in range(1, n + 1)
        ]
    )
