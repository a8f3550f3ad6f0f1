"""One pass over all pixels: the hash of a data set and the statistics of its training split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.dataset import Split

CHUNK = 1024


@dataclass(frozen=True)
class Survey:
    """What a pass over the splits finds.

    Attributes:
        content_hash: SHA-256 in hexadecimal over names, shapes, pixels and labels of the splits.
        mean: of each channel of "train", in units of 255.
        std: likewise; 1 where a channel is constant.
    """

    content_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def survey(splits: dict[str, Split]) -> Survey:
    """Read every image once, in order.

    Raises:
        BenchError: an image cannot be read.
    """
    digest = hashlib.sha256()
    histogram = torch.zeros(splits["train"].images.shape[1], 256, dtype=torch.long)
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        for images, labels in split.batches(CHUNK):
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.numpy().data)
            if name == "train":
                histogram += _histogram(images)
    mean, std = _moments(histogram)
    return Survey(digest.hexdigest(), mean, std)


def _histogram(images: Tensor) -> Tensor:
    """How often each byte occurs, (c, 256), from (n, c, h, w): exact, unlike a sum of floats."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def _moments(histogram: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    shares = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    std[std == 0] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
