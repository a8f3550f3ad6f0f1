"""Random numbers by counter: each is a hash of what it is for, and depends on no other draw.

The hash chains the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the counters.
It is integer arithmetic alone: the same on every platform and with every version of numpy.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Purpose(IntEnum):
    """The first counter, so that streams for different ends are independent."""

    ORDER = 1
    HOLD_OUT = 2
    CROP_ROW = 3
    CROP_COLUMN = 4
    FLIP = 5
    RANDAUGMENT = 6
    ROUTER_NOISE = 8
    DROPOUT = 9
    MARK = 10
    MOE_WEIGHTS = 11


def random_bits(purpose: Purpose, *counters: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for every combination of counters, which broadcast against each other.

    For fixed earlier counters, distinct values of the last one give distinct bits.
    """
    state = np.full(1, int(purpose), np.uint64)
    for counter in counters:
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ np.asarray(counter).astype(np.uint64)
    return _mix(state + np.uint64(0x9E3779B97F4A7C15))


def random_below(limit: int, purpose: Purpose, *counters: ArrayLike) -> NDArray[np.int64]:
    """Integers in [0, limit), limit at most 2³¹; the bias is below limit / 2³²."""
    high = random_bits(purpose, *counters) >> np.uint64(32)
    return ((high * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def random_order(count: int, purpose: Purpose, *counters: int) -> NDArray[np.int64]:
    """A permutation of range(count): the order of the bits drawn for each position."""
    return np.argsort(random_bits(purpose, *counters, np.arange(count)), kind="stable")


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
