"""Assembly of a data set from a source: complete splits, one shape, a hash and statistics."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.dataset import Dataset, Split
from bench.data.files import cache_folder, replacing
from bench.data.order import Purpose, random_order
from bench.data.pictures import Header, Key, LazyImages, Pictures, UnreadableError
from bench.data.raw import SPLITS, RawData, RawSplit
from results.text import readable
from routers.errors import RequestError

SEED = 0  # for held-out splits, which are the same on every machine
# Each missing split takes 10 % of the training images, but no more than 10,000.
HELD_OUT_SHARE = 0.1
HELD_OUT_IMAGES = 10_000
MEMORY_LIMIT = 2 * 2**30  # bytes of pixels in all splits; beyond it, images are decoded by batch
CHUNK = 1024
HASHED_BYTES = 2**30  # of files whose content is hashed to detect changes


def assemble(
    name: str, raw: RawData, image_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Assemble a data set from the content of a source: complete splits, images of one shape.

    Args:
        image_size: height and width to scale images to; None keeps their size.
        channels: 1 or 3; None keeps the number, and takes 3 if only some images are in colour.

    Raises:
        RequestError: a class is empty or too small to split, images are of unequal size, or some
            cannot be read, which the message counts.
    """
    raw_splits = _complete(raw)
    for split_name, split in raw_splits.items():
        counts = np.bincount(raw.stratum(split), minlength=len(raw.strata))
        empty = [repr(raw.strata[label]) for label in np.flatnonzero(counts == 0)]
        if empty:
            raise RequestError(f"{name}: no image in {split_name} of class {', '.join(empty)}")
    try:
        shape = _common_shape(raw_splits.values(), image_size, channels)
        total = sum(len(split.labels) for split in raw_splits.values()) * math.prod(shape)
        splits = {
            name: Split(
                _images(split, shape, total <= MEMORY_LIMIT),
                _long(split.labels),
                None if split.attribute is None else _long(split.attribute),
            )
            for name, split in raw_splits.items()
        }
        statistics = _statistics(splits)
    except UnreadableError:
        pictures = (split.pictures() for split in raw_splits.values())
        raise UnreadableError([fault for some in pictures for fault in some.faults()]) from None
    return Dataset(
        name,
        tuple(map(readable, raw.classes)),
        splits,
        licence=raw.licence,
        attributes=raw.attributes,
        content_hash=statistics["content_hash"],
        mean=torch.tensor(statistics["mean"]),
        std=torch.tensor(statistics["std"]),
    )


def _complete(raw: RawData) -> dict[str, RawSplit]:
    """Complete the splits by holding out training images for those that the source lacks."""
    splits = dict(raw.splits)
    usual = min(HELD_OUT_SHARE, HELD_OUT_IMAGES / len(splits["train"].labels))
    for name, share in (("test", usual), ("val", raw.val_share or usual)):
        if name not in splits:
            train = splits["train"]
            kept, held = _hold_out(raw.stratum(train), share, raw.strata)
            splits["train"], splits[name] = train.select(kept), train.select(held)
    return {name: splits[name] for name in SPLITS}


def _hold_out(
    labels: NDArray[np.int64], share: float, classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split off `share` of each class, at least one image; return kept and held indices, sorted."""
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


def _common_shape(
    splits: Iterable[RawSplit], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """Return the shape for all images; what is None follows from them, grey if all are grey."""
    if channels not in (None, 1, 3):
        raise RequestError(f"data.channels is {channels}; images have 1 (grey) or 3 (colour)")
    if image_size is None or channels is None:
        headers: dict[Header, Key] = {}
        for split in splits:
            headers = split.headers() | headers
        if image_size is None:
            image_size = _only_size({(w, h): key for (w, h, _), key in headers.items()})
        channels = channels or (1 if all(grey for _, _, grey in headers) else 3)
    return channels, image_size, image_size


def _only_size(sizes: dict[tuple[int, int], Key]) -> int:
    """Return the width of all images; `sizes` holds the first image of each size."""
    examples = ", ".join(f"{w} × {h} ({key})" for (w, h), key in list(sizes.items())[:3])
    if len(sizes) > 1:
        raise RequestError(f"images are of unequal size: {examples}; set data.image_size")
    ((width, height),) = sizes
    if width != height:
        raise RequestError(f"images are not square: {examples}; set data.image_size")
    return width


def _images(raw: RawSplit, shape: tuple[int, int, int], in_memory: bool) -> Tensor | LazyImages:
    if not isinstance(raw.images, Pictures):
        pixels = raw.images[:, None] if raw.images.ndim == 3 else raw.images.transpose(0, 3, 1, 2)
        if pixels.shape[1:] == shape:
            return torch.from_numpy(np.ascontiguousarray(pixels))
    lazy = LazyImages(raw.pictures(), shape)
    return lazy[torch.arange(len(raw.labels))] if in_memory else lazy


def _long(values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))  # a user's labels may be of any integer type


def _statistics(splits: dict[str, Split]) -> dict[str, Any]:
    """Compute the content hash, mean and std; results for unchanged files on disk are cached."""
    key = _files_key(splits)
    if key is None:
        return _read_all(splits)
    cached = cache_folder() / "surveys" / f"{key}.json"
    if not cached.exists():
        statistics = _read_all(splits)
        with replacing(cached) as part:
            part.write_text(json.dumps(statistics), encoding="utf-8")
    read: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
    return read


def _files_key(splits: dict[str, Split]) -> str | None:
    """Return a key that changes with any file's path, size or times.

    It includes the files' content if hashing it is cheap, and Pillow's version, since decoders may
    differ in the last bit. None if images do not have files of their own, or one is missing.
    """
    digest = hashlib.sha256(PIL.__version__.encode())
    real_folder = cache(os.path.realpath)  # changes when a link is redirected
    hashed = 0
    for name, split in sorted(splits.items()):
        if not isinstance(split.images, LazyImages) or not split.images.pictures.in_files:
            return None
        digest.update(f"{name} {split.images.shape}".encode())
        digest.update(split.labels.numpy().data)
        _add_attribute(digest, split)
        for key in map(str, split.images.pictures.keys):
            try:
                stat = os.stat(key)
                hashed += stat.st_size
                content = Path(key).read_bytes() if hashed <= HASHED_BYTES else b""
            except OSError:
                return None  # reading the images will name the file
            folder, file = os.path.split(key)
            digest.update(os.fsencode(os.path.join(real_folder(folder), file)))
            digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _read_all(splits: dict[str, Split]) -> dict[str, Any]:
    """Read every image once, in order, to compute the content hash, mean and std."""
    digest = hashlib.sha256()
    histogram = torch.zeros(splits["train"].images.shape[1], 256, dtype=torch.long)
    for name, split in sorted(splits.items()):
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        for images, labels in split.batches(CHUNK):
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.numpy().data)
            if name == "train":
                histogram += channel_histogram(images)
        _add_attribute(digest, split)
    mean, std = channel_moments(histogram)
    return {"content_hash": digest.hexdigest(), "mean": mean, "std": std}


def _add_attribute(digest: hashlib._Hash, split: Split) -> None:
    if split.attribute is not None:
        digest.update(split.attribute.numpy().data)


def channel_histogram(images: Tensor) -> Tensor:
    """Count each byte value per channel, (n, c, h, w) -> (c, 256); exact, unlike float sums."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def channel_moments(histogram: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute each channel's mean and deviation, in units of 255; a deviation of 0 becomes 1."""
    shares = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    std[std == 0] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
