"""The images of every training step, made ahead by worker processes where making them is slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bench.config import AugmentConfig, TrialSpec
from bench.data.augment import Augment
from bench.data.dataset import Dataset, Split, normalise
from bench.data.order import training_indices
from routers.errors import BenchError

MOST_WORKERS = 16

ImageBatch = tuple[Tensor, Tensor]


class TrainingImages:
    """The augmented images and labels of each step, as a function of the step alone.

    Images in memory with simple augmentation are made at once. Decoding files and RandAugment take
    longer than many a training step: there, worker processes make the following steps meanwhile.

    Args:
        dataset: whose training split is gone through.
        augment: what happens to its images.
        seed: decides the order and the augmentation.
        batch_size: images a step.
    """

    def __init__(
        self, dataset: Dataset, augment: AugmentConfig, seed: int, batch_size: int
    ) -> None:
        split = dataset.splits["train"]
        self._steps = _Steps(split, Augment(augment), seed, batch_size)
        self._slow = bool(augment.randaugment) or not isinstance(split.images, Tensor)
        self._next_step = -1
        self._ahead: Iterator[ImageBatch | str] = iter(())

    def __call__(self, step: int) -> ImageBatch:
        """Return images uint8 (n, c, h, w) and labels (n,) long, on the CPU.

        Raises:
            BenchError: a file cannot be read any more.
        """
        if not self._slow:
            return self._steps.make(step)
        if step != self._next_step:
            self._ahead = self._start(step)
        self._next_step = step + 1
        batch = next(self._ahead)
        if isinstance(batch, str):
            self.close()
            raise BenchError(batch)
        return batch

    def close(self) -> None:
        """Stop the worker processes; the next call starts new ones.

        Left to the garbage collector, it may come so late that torch waits 5 s for each of them.
        """
        self._ahead, self._next_step = iter(()), -1

    def _start(self, step: int) -> Iterator[ImageBatch | str]:
        workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
        return iter(
            DataLoader(self._steps, batch_size=None, sampler=count(step), num_workers=workers)
        )


class _Steps(TorchDataset[ImageBatch | str]):
    """The steps as a data set for torch's loader."""

    def __init__(self, split: Split, augment: Augment, seed: int, batch_size: int) -> None:
        self._split, self._augment = split, augment
        self._seed, self._batch_size = seed, batch_size

    def make(self, step: int) -> ImageBatch:
        indices, epochs = training_indices(len(self._split), self._seed, step, self._batch_size)
        images = self._augment(self._split.fetch(indices), self._seed, epochs, indices)
        return images, self._split.labels[indices]

    def __getitem__(self, step: int) -> ImageBatch | str:
        try:
            return self.make(step)
        except BenchError as error:  # raised in a worker, it would come back with its traceback
            return str(error)


Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) float32, normalised, and labels (n,) long, on the training's device."""


class TrainingBatches:
    """The batches of a training, by the number of the step, from 0.

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
        """The batch of step 0, kept since its FLOPs are counted before it is trained on."""
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
