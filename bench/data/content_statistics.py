"""One pass over all pixels: the hash of a data set and the statistics of its training split."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import PIL
import torch
from torch import Tensor

from bench.data.dataset import Split
from bench.data.files import cache_folder
from bench.data.pictures import LazyImages

CHUNK = 1024
HASHED_BYTES = 2**30  # of files whose content is hashed, to see whether they are as they were


@dataclass(frozen=True)
class ContentStatistics:
    """The hash and channel statistics of a data set.

    Attributes:
        content_hash: SHA-256 in hexadecimal over names, shapes, pixels and labels of the splits,
            and over the protected attribute where there is one.
        mean: of each channel of "train", in units of 255.
        std: likewise; 1 where a channel is constant.
    """

    content_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def compute_statistics(splits: dict[str, Split]) -> ContentStatistics:
    """Read every image once, in order; the result for unchanged files on disk is cached.

    Raises:
        BenchError: an image cannot be read.
    """
    key = _files_key(splits)
    if key is None:
        return _read_all(splits)
    cached = cache_folder() / "surveys" / f"{key}.json"
    if not cached.exists():
        statistics = _read_all(splits)
        cached.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cached.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(statistics)), encoding="utf-8")
        unfinished.replace(cached)
    return ContentStatistics(**json.loads(cached.read_text(encoding="utf-8")))


def _files_key(splits: dict[str, Split]) -> str | None:
    """Return a key that changes with any file's path, size or times.

    The content of files enters where hashing it is cheap, and Pillow's version, since decoders do
    not agree to the last bit. None where images are not in files of their own, or one is missing.
    """
    digest = hashlib.sha256(PIL.__version__.encode())
    real_folder = cache(os.path.realpath)  # of a link that was turned elsewhere, another
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
                return None  # reading the images says which
            folder, file = os.path.split(key)
            digest.update(os.fsencode(os.path.join(real_folder(folder), file)))
            digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _read_all(splits: dict[str, Split]) -> ContentStatistics:
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
    return ContentStatistics(digest.hexdigest(), mean, std)


def _add_attribute(digest: hashlib._Hash, split: Split) -> None:
    if split.attribute is not None:
        digest.update(split.attribute.numpy().data)


def channel_histogram(images: Tensor) -> Tensor:
    """Count each byte per channel, (n, c, h, w) -> (c, 256): exact, unlike a sum of floats."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def channel_moments(histogram: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and deviation of each channel, in units of 255; 1 for a deviation of 0."""
    shares = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    std[std == 0] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
