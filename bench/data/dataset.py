"""A data set as training and the suites see it: splits of uint8 images, with metadata."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.pictures import LazyImages


@dataclass(frozen=True, eq=False)
class Split:
    """The images of a split and their classes.

    Attributes:
        images: uint8 (n, c, h, w); a tensor in memory, or lazily decoded from files.
        labels: long (n,), the classes of the images.
        attribute: long (n,), the value of the protected attribute; None if there is none.
    """

    images: Tensor | LazyImages
    labels: Tensor
    attribute: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (k,), uint8 (k, c, h, w), on the CPU.

        Raises `BenchError` if a file can no longer be read.
        """
        return self.images[indices]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, as pairs of images, uint8 (b, c, h, w), and labels (b,)."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.fetch(indices), self.labels[indices]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with fixed splits.

    Attributes:
        name: the name of the data set in a request.
        classes: names of the classes, by label.
        splits: "train", "val" and "test"; all their images have one shape.
        mean: float32 (c,), of each channel over the training split, in units of 255.
        std: float32 (c,), likewise; 1 for a constant channel.
        content_hash: hexadecimal SHA-256 of the pixels, labels and attribute of the splits.
        licence: the licence of the images, or where to read it.
        attributes: names of the protected attribute's values; empty if there is none.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    mean: Tensor
    std: Tensor
    content_hash: str
    licence: str
    attributes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of each image."""
        _, channels, height, width = self.splits["train"].images.shape
        return channels, height, width


@dataclass(frozen=True)
class DataShape:
    """The shape of a data set, whose images need not be on this machine.

    Attributes:
        image_shape: (channels, height, width).
        num_classes: number of labels.
        num_samples: number of images in the training split.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_samples: int


ShapedData = Dataset | DataShape
"""Anything that tells a model the shape of its data."""


def normalise(images: Tensor, dataset: Dataset) -> Tensor:
    """Normalise uint8 images (n, c, h, w) by the training split's channel means and deviations.

    Returns float32 on the device of `images`.
    """
    mean, std = (value.to(images.device)[:, None, None] for value in (dataset.mean, dataset.std))
    return (images.to(torch.float32) / 255 - mean) / std
