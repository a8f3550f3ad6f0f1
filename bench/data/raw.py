"""What a source of images hands over, before splits are completed and images made of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from bench.data.pictures import Header, Key, Pictures
from routers.errors import RequestError


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images as they come.

    Attributes:
        images: uint8 (n, h, w), (n, h, w, 1) or (n, h, w, 3) in memory, or pictures in files.
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
        return {(images.shape[2], images.shape[1], images.shape[3:] != (3,)): 0}

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

    @classmethod
    def from_arrays(
        cls,
        images: ArrayLike,
        labels: ArrayLike,
        classes: Iterable[str],
        *,
        train: Sequence[int] | NDArray[np.int64] | None = None,
        val: Sequence[int] | NDArray[np.int64] | None = None,
        test: Sequence[int] | NDArray[np.int64] | None = None,
        licence: str = "not stated",
    ) -> RawData:
        """Make the content of arrays, with splits as indices into them.

        Args:
            images: uint8 (n, height, width), (n, height, width, 1) or (n, height, width, 3).
            labels: int (n,), from 0.
            classes: names, by label.
            train: indices of training images; None for all that the other splits leave.
            val: indices of validation images; None takes a share of the training images.
            test: indices of test images; likewise.
            licence: of the images, or where to read it.

        Raises:
            RequestError: there are not as many labels as images, an index is of no image, or an
                image is in two splits.
        """
        pixels, numbers = np.asarray(images), np.asarray(labels)
        if pixels.shape[:1] != numbers.shape[:1]:
            raise RequestError(
                f"images have the shape {pixels.shape} and labels {numbers.shape}; "
                "give one label for each image"
            )
        given = {"train": train, "val": val, "test": test}
        chosen = {
            name: np.asarray(indices, np.int64)
            for name, indices in given.items()
            if indices is not None
        }
        _refuse_overlap(chosen, len(numbers))
        if train is None:
            others = np.concatenate([*chosen.values(), np.empty(0, np.int64)])
            chosen["train"] = np.setdiff1d(np.arange(len(numbers)), others)
        splits = {name: RawSplit(pixels[each], numbers[each]) for name, each in chosen.items()}
        return cls(tuple(classes), splits, licence)

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
    pixels = images[index]
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _refuse_overlap(splits: dict[str, NDArray[np.int64]], count: int) -> None:
    """Refuse an index outside [0, count), and one that occurs twice in all splits together."""
    split_of: dict[int, str] = {}
    for name, indices in splits.items():
        for index in indices.tolist():
            if not 0 <= index < count:
                raise RequestError(f"{name} names image {index}; there are {count}, from 0")
            if index in split_of:
                both = dict.fromkeys((split_of[index], name))
                raise RequestError(
                    f"image {index} is in {' and in '.join(both)}"
                    f"{' twice' if len(both) == 1 else ''}; splits must not overlap"
                )
            split_of[index] = name
