"""The batches of a training, ready for the model: a function of the seed and the step."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.config import TrialSpec
from bench.data.dataset import Dataset, normalise
from bench.data.training_images import TrainingImages

Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) float32, normalised, and labels (n,) long, on the training's device."""


class TrainingBatches:
    """`batches(step)` is the batch of a step, from 0.

    Args:
        spec: the trial; its seed decides the order and the augmentation.
        dataset: what it trains on.
        device: where the batches are to be.
    """

    def __init__(self, spec: TrialSpec, dataset: Dataset, device: torch.device) -> None:
        self._dataset, self._device = dataset, device
        size = spec.train.batch_size
        self._images = TrainingImages(dataset, spec.data.augment, spec.seed, size)
        self._first: Batch | None = None

    @property
    def first(self) -> Batch:
        """That of step 0, which is counted before it is trained on."""
        if self._first is None:
            self._first = self._ready(0)
        return self._first

    def __call__(self, step: int) -> Batch:
        return self.first if step == 0 else self._ready(step)

    def close(self) -> None:
        """Stop the processes that make batches ahead, if there are any."""
        self._images.close()

    def _ready(self, step: int) -> Batch:
        images, labels = (tensor.to(self._device) for tensor in self._images(step))
        return normalise(images, self._dataset), labels
