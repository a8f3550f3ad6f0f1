"""What is wrong with the content of a data set, in words for whoever wrote its function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from routers.errors import RequestError, nearest

SPLITS = ("train", "val", "test")


def refuse_invalid(name: str, raw: object) -> RawData:
    """Return the content if it is as a data set's should be.

    Raises:
        RequestError: with the first fault.
    """
    fault = structure_fault(raw)
    if fault is None:
        assert isinstance(raw, RawData)
        faults = (find(raw) for find in FAULTS)
        fault = next((found for found in faults if found), None)
        if fault is None:
            return raw
    raise RequestError(f"data set {name!r}: {fault}")


def structure_fault(raw: object) -> str | None:
    """Tell what is wrong with the type of the content, or with the names of its splits."""
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
    """Tell what is wrong with the names of the classes."""
    if len(raw.classes) < 2:
        return f"it has too few classes, {len(raw.classes)}; 2 are needed"
    for number, name in enumerate(raw.classes):
        if not isinstance(name, str):
            return f"the name of class {number} is {name!r}, not a text"
        if name in raw.classes[:number]:
            return f"two classes are named {name!r}"
    return None


def image_fault(raw: RawData) -> str | None:
    """Tell what is wrong with the images that are in memory; files are read later."""
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
    """Tell what is wrong with the labels, or with the values of the protected attribute."""
    for name, split in raw.splits.items():
        fault = _numbers_fault(f"the labels of {name}", split, split.labels, raw.classes)
        if fault is None and split.attribute is not None:
            what = f"the attributes of {name}"
            fault = _numbers_fault(what, split, split.attribute, raw.attributes)
        if fault:
            return fault
    return None


def _numbers_fault(
    what: str, split: RawSplit, numbers: object, names: tuple[str, ...]
) -> str | None:
    """Tell why `numbers` are not one number in [0, number of names) for each image."""
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "iu":
        kind = getattr(numbers, "dtype", type(numbers).__name__)
        return f"{what} are {kind}; give an array of integers"
    if numbers.shape != (len(split.images),):
        return f"{what} have the shape {numbers.shape}; there are {len(split.images)} images"
    outside = numbers[(numbers < 0) | (numbers >= len(names))]
    if len(outside):
        last = len(names) - 1
        return f"{what} contain {outside[0]}; with {len(names)} names they go from 0 to {last}"
    return None


FAULTS: tuple[Callable[[RawData], str | None], ...] = (class_fault, image_fault, label_fault)
