"""What a source of images hands over, before splits are completed and images made of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.pictures import Header, Key, Pictures


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images as they come.

    Attributes:
        images: uint8 (n, h, w) or (n, h, w, 3) in memory, or pictures in files.
        labels: int64 (n,).
        attribute: int64 (n,), the value of the protected attribute; None where there is none.
    """

    images: NDArray[np.uint8] | Pictures
    labels: NDArray[np.int64]
    attribute: NDArray[np.int64] | None = None

    def select(self, indices: NDArray[np.int64]) -> RawSplit:
        """The images at `indices`, in that order."""
        images = self.images
        chosen = images.select(indices) if isinstance(images, Pictures) else images[indices]
        attribute = None if self.attribute is None else self.attribute[indices]
        return RawSplit(chosen, self.labels[indices], attribute)

    def headers(self) -> dict[Header, Key]:
        """The sizes and kinds of images that occur, each with an example's key."""
        images = self.images
        if isinstance(images, Pictures):
            return images.headers()
        return {(images.shape[2], images.shape[1], images.ndim == 3): 0}

    def pictures(self) -> Pictures:
        """The images as pictures."""
        images = self.images
        if isinstance(images, Pictures):
            return images
        return Pictures(range(len(images)), partial(_from_array, images))


@dataclass(frozen=True, eq=False)
class RawData:
    """A source's whole content.

    Attributes:
        classes: names, by label.
        splits: "train", and "val" and "test" where the source has them.
        licence: of the images, or where to read it.
        val_share: of "train" that becomes "val" where the source has none; None for the usual one.
        attributes: names of the protected attribute's values; empty where there is none.
    """

    classes: tuple[str, ...]
    splits: dict[str, RawSplit]
    licence: str
    val_share: float | None = None
    attributes: tuple[str, ...] = ()

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the groups that every split holds: classes, or classes × attribute values."""
        if not self.attributes:
            return self.classes
        return tuple(f"{label}, {value}" for label in self.classes for value in self.attributes)

    def stratum(self, split: RawSplit) -> NDArray[np.int64]:
        """The group of each image, (n,), by its number in `strata`."""
        if split.attribute is None:
            return split.labels
        return split.labels * len(self.attributes) + split.attribute


def _from_array(images: NDArray[np.uint8], index: int) -> Image.Image:
    return Image.fromarray(images[index])
