"""The order in which training sees the images, keyed by the seed and a counter of samples.

Sample number n = step · batch_size + i is at position n mod N of epoch n // N's permutation of the
N images. So two runs with the same seed see the same images in the same order, however many steps
each of them takes, and a run that resumes needs to know only its step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.draws import Purpose, random_order


def training_indices(
    num_samples: int, seed: int, step: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """The images of one training step.

    Args:
        num_samples: size N of the training split.
        seed: of the run.
        step: counted from 0.
        batch_size: images a step; a batch may span two epochs or, where N is small, more.

    Returns:
        indices: (batch_size,) long, into the training split.
        epochs: (batch_size,) long, the epoch that each of them belongs to.
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
