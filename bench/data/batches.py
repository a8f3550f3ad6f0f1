"""Training batches, prefetched by worker processes if making them is slow."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bench.config import AugmentConfig, TrialSpec
from bench.data.dataset import Dataset, normalise
from bench.data.order import Purpose, random_below, random_bits, training_indices
from bench.environment import cores
from routers.errors import BenchError, RequestError

MOST_WORKERS = 16

Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and labels (n,) long."""


class TrainingBatches:
    """The batches of a training run, which depend only on the number of the step, from 0.

    Images in memory with simple augmentation are made on demand. Decoding files and RandAugment
    often take longer than a training step, so worker processes prepare the next steps meanwhile.

    Args:
        spec: the trial; its seed decides the order and the augmentation.
        dataset: the data set to train on.
        device: the device of the returned batches.
        rank: which of the `train.ranks` shares of each batch to make.
    """

    def __init__(
        self, spec: TrialSpec, dataset: Dataset, device: torch.device, rank: int = 0
    ) -> None:
        self._dataset, self._device = dataset, device
        self._steps = _Steps(spec, dataset, rank)
        images = dataset.splits["train"].images
        self._slow = bool(spec.data.augment.randaugment) or not isinstance(images, Tensor)
        self._next_step = -1
        self._ahead: Iterator[Batch | str] = iter(())
        self._first: Batch | None = None

    @property
    def first(self) -> Batch:
        """The batch of step 0, kept because its FLOPs are counted before it is trained on."""
        if self._first is None:
            self._first = self._normalised(0)
        return self._first

    def __call__(self, step: int) -> Batch:
        """Return normalised float32 images and their labels, on the device.

        Raises:
            BenchError: a file can no longer be read.
        """
        return self.first if step == 0 else self._normalised(step)

    def images(self, step: int) -> Batch:
        """Return a step's uint8 images and labels, on the CPU; raises the errors of `__call__`."""
        if not self._slow:
            return self._steps.make(step)
        if step != self._next_step:
            workers = min(cores(), MOST_WORKERS)
            self._ahead = iter(
                DataLoader(self._steps, batch_size=None, sampler=count(step), num_workers=workers)
            )
        self._next_step = step + 1
        batch = next(self._ahead)
        if isinstance(batch, str):
            self.close()
            raise BenchError(batch)
        return batch

    def close(self) -> None:
        """Stop the worker processes, if there are any; the next call starts new ones.

        The garbage collector may do this so late that torch waits 5 s for each of them.
        """
        self._ahead, self._next_step = iter(()), -1

    def _normalised(self, step: int) -> Batch:
        images, labels = (tensor.to(self._device) for tensor in self.images(step))
        return normalise(images, self._dataset), labels


class _Steps(TorchDataset[Batch | str]):
    """The augmented images of each step, as a data set for torch's `DataLoader`."""

    def __init__(self, spec: TrialSpec, dataset: Dataset, rank: int) -> None:
        self._split, self._augment = dataset.splits["train"], Augment(spec.data.augment)
        self._seed, self._batch_size = spec.seed, spec.train.batch_size
        self._rank, self._ranks = rank, spec.train.ranks

    def make(self, step: int) -> Batch:
        indices, epochs = (
            each.tensor_split(self._ranks)[self._rank]
            for each in training_indices(len(self._split), self._seed, step, self._batch_size)
        )
        images = self._augment(self._split.fetch(indices), self._seed, epochs, indices)
        return images, self._split.labels[indices]

    def __getitem__(self, step: int) -> Batch | str:
        try:
            return self.make(step)
        except BenchError as error:  # raised in a worker, it would carry its traceback
            return str(error)


class Augment:
    """Random crop with black padding, horizontal flip and RandAugment (arXiv 1909.13719).

    An image's changes are drawn from (seed, epoch, index), so they do not depend on its batch, on
    the device or on other uses of random numbers.

    Args:
        options: `crop_padding` pixels on every side, 0 for none; `flip`, with probability ½;
            `randaugment`, timm's text such as "rand-m9-n2-mstd0.5", applied image by image on the
            CPU; `RequestError` if timm does not understand it.
    """

    def __init__(self, options: AugmentConfig) -> None:
        self._padding = options.crop_padding
        self._flip = options.flip
        self._randaugment = _randaugment(options.randaugment) if options.randaugment else None

    def __call__(self, images: Tensor, seed: int, epochs: Tensor | int, indices: Tensor) -> Tensor:
        """Augment images, uint8 (n, c, h, w), on any device.

        Args:
            epochs: the epoch of each image (n,), or one for all.
            indices: (n,), the index of each image in the training split.

        Returns:
            uint8 (n, c, h, w); `images` itself if no augmentation is on.
        """
        keys = (seed, np.asarray(epochs), np.asarray(indices))
        if self._padding:
            images = _crop(images, self._padding, keys)
        if self._flip:
            flipped = torch.from_numpy(random_below(2, Purpose.FLIP, *keys) == 1).to(images.device)
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        if self._randaugment:
            images = _each(self._randaugment, images, random_bits(Purpose.RANDAUGMENT, *keys))
        return images


def _crop(images: Tensor, padding: int, keys: tuple[int, NDArray, NDArray]) -> Tensor:
    height, width = images.shape[-2:]
    windows = pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    offsets = [
        torch.from_numpy(random_below(2 * padding + 1, purpose, *keys)).to(images.device)
        for purpose in (Purpose.CROP_ROW, Purpose.CROP_COLUMN)
    ]
    return windows[torch.arange(len(images), device=images.device), :, offsets[0], offsets[1]]


def _randaugment(text: str) -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform

    # timm silently ignores some of the sections that it does not understand.
    if re.fullmatch(r"rand(-(m|n|p|inc|mmax|mstd)[\d.]+|-t(weights|3aw|3a))*", text):
        with suppress(ValueError, KeyError):
            return rand_augment_transform(text)
    raise RequestError(
        f"data.augment.randaugment is {text!r}, which timm does not understand; "
        "a valid one is 'rand-m9-n2-mstd0.5'"
    )


def _each(
    change: Callable[[Image.Image], Image.Image], images: Tensor, seeds: NDArray[np.uint64]
) -> Tensor:
    """Apply `change` to each image with its own seed, as an RGB picture, which timm needs."""
    channels, *size = images.shape[1:]
    changed = []
    states = random.getstate(), np.random.get_state()  # of the generators that timm uses
    try:
        for pixels, seed in zip(images.cpu().numpy(), seeds.tolist(), strict=True):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            coloured = np.broadcast_to(pixels, (3, *size)).transpose(1, 2, 0).copy()
            result = change(Image.fromarray(coloured)).convert("L" if channels == 1 else "RGB")
            changed.append(np.atleast_3d(np.asarray(result)).transpose(2, 0, 1))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return torch.from_numpy(np.stack(changed)).to(images.device)
