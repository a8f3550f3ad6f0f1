"""The content of an image source, before its splits are completed and its images resized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from bench.data.pictures import Header, Key, Pictures
from routers.errors import RequestError, nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class RawSplit:
    """The images of a split as a source returns them.

    Attributes:
        images: uint8 (n, h, w), (n, h, w, 1) or (n, h, w, 3) in memory, or pictures in files.
        labels: int64 (n,), the classes of the images.
        attribute: int64 (n,), the value of the protected attribute; None if there is none.
    """

    images: NDArray[np.uint8] | Pictures
    labels: NDArray[np.int64]
    attribute: NDArray[np.int64] | None = None

    def select(self, indices: NDArray[np.int64]) -> RawSplit:
        """Return the images at `indices`, in that order."""
        images = self.images
        chosen = images.select(indices) if isinstance(images, Pictures) else images[indices]
        attribute = None if self.attribute is None else self.attribute[indices]
        return RawSplit(chosen, self.labels[indices], attribute)

    def headers(self) -> dict[Header, Key]:
        """Return the sizes and kinds of the images, each with the key of an example."""
        if isinstance(self.images, Pictures):
            return self.images.headers()
        _, height, width, *channels = self.images.shape
        return {(width, height, channels != [3]): 0}

    def pictures(self) -> Pictures:
        """Return the images as `Pictures`."""
        if isinstance(self.images, Pictures):
            return self.images
        return Pictures(range(len(self.images)), partial(_from_array, self.images))


@dataclass(frozen=True, eq=False)
class RawData:
    """The whole content of a source.

    Attributes:
        classes: names of the classes, by label.
        splits: "train", and "val" and "test" if the source has them.
        licence: the licence of the images, or where to read it.
        val_share: the share of "train" that becomes "val" if the source has none; None for the
            default share.
        attributes: names of the protected attribute's values; empty if there is none.
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
        """Create the content from arrays, with splits given as indices into them.

        Args:
            images: uint8 (n, height, width), (n, height, width, 1) or (n, height, width, 3).
            labels: int (n,), the classes of the images, from 0.
            classes: names of the classes, by label.
            train: indices; None for all images that are in no other split.
            val: indices; None takes a share of the training images.
            test: indices; None takes a share of the training images.
            licence: the licence of the images, or where to read it.

        Raises:
            RequestError: the numbers of labels and images differ, an index is out of range, or an
                image occurs twice, in one split or in two.
        """
        pixels, numbers = np.asarray(images), np.asarray(labels)
        if pixels.shape[:1] != numbers.shape[:1]:
            raise RequestError(
                f"images have the shape {pixels.shape} and labels {numbers.shape}; "
                "give one label for each image"
            )
        by_split = zip(SPLITS, (train, val, test), strict=True)
        chosen = {name: np.asarray(each, np.int64) for name, each in by_split if each is not None}
        taken = _refuse_overlap(chosen, len(numbers))
        if train is None:
            chosen["train"] = np.setdiff1d(np.arange(len(numbers)), taken)
        splits = {name: RawSplit(pixels[each], numbers[each]) for name, each in chosen.items()}
        return cls(tuple(classes), splits, licence)

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the groups that every split contains: classes, or classes × attribute values."""
        if not self.attributes:
            return self.classes
        return tuple(f"{label}, {value}" for label in self.classes for value in self.attributes)

    def stratum(self, split: RawSplit) -> NDArray[np.int64]:
        """Return the group of each image, (n,), as an index into `strata`."""
        if split.attribute is None:
            return split.labels
        return split.labels * len(self.attributes) + split.attribute


def _from_array(images: NDArray[np.uint8], index: int) -> Image.Image:
    pixels = images[index]
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _refuse_overlap(splits: dict[str, NDArray[np.int64]], count: int) -> list[int]:
    """Raise an error if an index is outside [0, count) or occurs twice; return all indices."""
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
    return list(split_of)


def refuse_invalid(name: str, raw: Any) -> RawData:
    """Return the content if it is a valid data set; else raise `RequestError`."""
    fault = structure_fault(raw) or class_fault(raw) or image_fault(raw) or label_fault(raw)
    if fault:
        raise RequestError(f"data set {name!r}: {fault}")
    checked: RawData = raw
    return checked


def structure_fault(raw: object) -> str | None:
    """Return what is wrong with the content's type or the names of its splits; None if nothing."""
    if not isinstance(raw, RawData):
        return (
            f"its function returns a {type(raw).__name__}, not a RawData; "
            "RawData.from_arrays(images, labels, classes) makes one"
        )
    for split in raw.splits:
        if split not in SPLITS:
            return f"it has a split {split!r}{nearest(split, SPLITS)}"
    return None if "train" in raw.splits else "it has no split 'train'"


def class_fault(raw: RawData) -> str | None:
    """Return what is wrong with the names of the classes; None if nothing."""
    if len(raw.classes) < 2:
        return f"it has too few classes, {len(raw.classes)}; 2 are needed"
    for number, name in enumerate(raw.classes):
        if not isinstance(name, str):
            return f"the name of class {number} is {name!r}, not a text"
        if name in raw.classes[:number]:
            return f"two classes are named {name!r}"
    return None


def image_fault(raw: RawData) -> str | None:
    """Return what is wrong with the images in memory, or None; files are read later."""
    for name, split in raw.splits.items():
        images = split.images
        if isinstance(images, Pictures):
            continue
        if not isinstance(images, np.ndarray):
            return f"the images of {name} are a {type(images).__name__}, not a numpy array"
        if images.dtype != np.uint8:
            return f"the images of {name} are {images.dtype}; give uint8, from 0 to 255"
        if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
            return (
                f"the images of {name} have the shape {images.shape}; give (images, height, width) "
                "or (images, height, width, channels) with 1 or 3 channels"
            )
        if not images.size:
            return f"{name} has no images: their shape is {images.shape}"
    return None


def label_fault(raw: RawData) -> str | None:
    """Return what is wrong with the labels or the protected attribute's values; None if nothing."""
    faults = (
        _numbers_fault(f"the {what} of {name}", len(split.images), numbers, names)
        for name, split in raw.splits.items()
        for what, numbers, names in (
            ("labels", split.labels, raw.classes),
            ("attributes", split.attribute, raw.attributes),
        )
        if what == "labels" or numbers is not None
    )
    return next(filter(None, faults), None)


def _numbers_fault(what: str, count: int, numbers: object, names: tuple[str, ...]) -> str | None:
    """Return why `numbers` is not one integer in [0, len(names)) for each image; None if it is."""
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "iu":
        kind = getattr(numbers, "dtype", type(numbers).__name__)
        return f"{what} are {kind}; give an array of integers"
    if numbers.shape != (count,):
        return f"{what} have the shape {numbers.shape}; there are {count} images"
    outside = numbers[(numbers < 0) | (numbers >= len(names))]
    if len(outside):
        last = len(names) - 1
        return f"{what} contain {outside[0]}; with {len(names)} names they go from 0 to {last}"
    return None
