"""Class-balanced hold-outs, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.content_statistics import compute_statistics
from bench.data.dataset import Dataset, Images, Split
from bench.data.order import Purpose, random_order
from bench.data.pictures import Header, Key, LazyImages, Pictures, UnreadableError
from bench.data.raw import RawData, RawSplit
from results.text import readable
from routers.errors import RequestError

SEED = 0


def hold_out(
    labels: NDArray[np.int64], share: float, classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split off `share` of every class, at least one image of each, by a fixed seed.

    Args:
        labels: (n,) class of each image; or its group, where more than classes are kept apart.
        share: in (0, 1).
        classes: names, for the message.

    Returns:
        kept, held: sorted indices into `labels`.

    Raises:
        RequestError: a class has fewer than two images.
    """
    held = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise RequestError(
                f"class {name!r} has too few training images, {len(members)}: "
                "at least 2 are needed to split some off for validation or test"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[random_order(len(members), Purpose.HOLD_OUT, SEED, label)[:count]])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


# Of the training images for each split that is missing: 10 %, but no more than 10,000 images.
HELD_OUT_SHARE = 0.1
HELD_OUT_IMAGES = 10_000

# Bytes of pixels of all splits; what is larger is decoded batch by batch.
MEMORY_LIMIT = 2 * 2**30


def assemble(
    name: str, raw: RawData, image_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Assemble a data set from the content of a source: complete splits, images of one shape.

    Args:
        name: the requested name.
        raw: the content of the source.
        image_size: height and width to scale images to; None keeps them.
        channels: 1 or 3; None keeps them, and takes 3 where only some images are in colour.

    Raises:
        RequestError: an empty class, one too small to split, or images of unequal size.
        UnreadableError: images cannot be read; the message counts them.
    """
    raw_splits = _complete(raw)
    for split_name, split in raw_splits.items():
        _refuse_empty_class(name, split_name, raw.stratum(split), raw.strata)
    try:
        splits = _of_one_shape(raw_splits, image_size, channels)
        statistics = compute_statistics(splits)
    except UnreadableError:
        pictures = (split.pictures() for split in raw_splits.values())
        raise UnreadableError([fault for some in pictures for fault in some.faults()]) from None
    return Dataset(
        name,
        tuple(map(readable, raw.classes)),
        splits,
        torch.tensor(statistics.mean),
        torch.tensor(statistics.std),
        statistics.content_hash,
        raw.licence,
        raw.attributes,
    )


def _complete(raw: RawData) -> dict[str, RawSplit]:
    splits = dict(raw.splits)
    usual = min(HELD_OUT_SHARE, HELD_OUT_IMAGES / len(splits["train"].labels))
    for name, share in (("test", usual), ("val", raw.val_share or usual)):
        if name not in splits:
            train = splits["train"]
            kept, held = hold_out(raw.stratum(train), share, raw.strata)
            splits["train"], splits[name] = train.select(kept), train.select(held)
    return {name: splits[name] for name in ("train", "val", "test")}


def _refuse_empty_class(
    name: str, split: str, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    empty = [classes[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        raise RequestError(f"{name}: no image in {split} of class {', '.join(map(repr, empty))}")


def _of_one_shape(
    raw_splits: dict[str, RawSplit], image_size: int | None, channels: int | None
) -> dict[str, Split]:
    shape = common_shape(list(raw_splits.values()), image_size, channels)
    total = sum(len(split.labels) for split in raw_splits.values()) * math.prod(shape)
    return {
        name: Split(
            _images(split, shape, total <= MEMORY_LIMIT),
            _whole_numbers(split.labels),
            None if split.attribute is None else _whole_numbers(split.attribute),
        )
        for name, split in raw_splits.items()
    }


def common_shape(
    splits: Sequence[RawSplit], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """Choose the shape (channels, height, width) of all images.

    What is None is taken from the images: one channel where all of them are grey, else three.

    Raises:
        RequestError: no `image_size`, and the images are not squares of one size; or `channels` is
            neither 1 nor 3.
    """
    if channels not in (None, 1, 3):
        raise RequestError(f"data.channels is {channels}; images have 1 (grey) or 3 (colour)")
    if image_size is None or channels is None:
        headers: dict[Header, Key] = {}
        for split in splits:
            headers = split.headers() | headers
        image_size = image_size or _only_size(headers)
        channels = channels or (1 if all(grey for _, _, grey in headers) else 3)
    return channels, image_size, image_size


def _only_size(headers: dict[Header, Key]) -> int:
    sizes = {(width, height): key for (width, height, _), key in headers.items()}
    examples = ", ".join(f"{w} × {h} ({key})" for (w, h), key in list(sizes.items())[:3])
    if len(sizes) > 1:
        raise RequestError(f"images are of unequal size: {examples}; set data.image_size")
    ((width, height),) = sizes
    if width != height:
        raise RequestError(f"images are not square: {examples}; set data.image_size")
    return width


def _whole_numbers(values: NDArray[np.int64]) -> Tensor:
    """Return labels of any integer type as a long tensor."""
    return torch.from_numpy(values.astype(np.int64))


def _images(raw: RawSplit, shape: tuple[int, int, int], in_memory: bool) -> Images:
    if not isinstance(raw.images, Pictures):
        pixels = raw.images[:, None] if raw.images.ndim == 3 else raw.images.transpose(0, 3, 1, 2)
        if pixels.shape[1:] == shape:
            return torch.from_numpy(np.ascontiguousarray(pixels))
    lazy = LazyImages(raw.pictures(), shape)
    return lazy[torch.arange(len(raw.labels))] if in_memory else lazy
