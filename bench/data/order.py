"""The order in which training sees the images, keyed by the seed and a counter of samples.

Sample number n = step · batch_size + i is at position n mod N of epoch n // N's permutation of the
N images. Two runs with the same seed therefore see the same images in the same order, however many
steps each of them takes, and a resumed run needs to know only its step.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


class Purpose(IntEnum):
    """The purpose of random numbers: the first counter, which makes their streams independent."""

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
    """Draw 64 random bits for each combination of counters, which broadcast against each other.

    For fixed earlier counters, distinct values of the last one give distinct bits.
    """
    state = np.full(1, int(purpose), np.uint64)
    for counter in counters:
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ np.asarray(counter).astype(np.uint64)
    return _mix(state + np.uint64(0x9E3779B97F4A7C15))


def random_below(limit: int, purpose: Purpose, *counters: ArrayLike) -> NDArray[np.int64]:
    """Draw integers in [0, limit), with limit at most 2³¹; their bias is below limit / 2³²."""
    high = random_bits(purpose, *counters) >> np.uint64(32)
    return ((high * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def random_order(count: int, purpose: Purpose, *counters: int) -> NDArray[np.int64]:
    """Draw a permutation of range(count), by the order of the bits drawn for each position."""
    return np.argsort(random_bits(purpose, *counters, np.arange(count)), kind="stable")


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def training_indices(
    num_samples: int, seed: int, step: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return the indices (batch_size,) of one step's images, and the epoch of each (batch_size,).

    Steps count from 0; a batch may span two epochs or, if there are few images, more.
    """
    samples = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, positions = np.divmod(samples, num_samples)
    indices = np.empty_like(samples)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = _permutation(num_samples, seed, epoch)[positions[here]]
    return torch.from_numpy(indices), torch.from_numpy(epochs)


@lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return random_order(num_samples, Purpose.ORDER, seed, epoch)
