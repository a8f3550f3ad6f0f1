"""From a source's raw splits to a data set: all three splits, images of one shape, statistics."""

from __future__ import annotations

import numpy as np
import torch

from bench.data.dataset import Dataset, Split
from bench.data.raw import RawData, RawSplit
from bench.data.splits import hold_out
from bench.data.survey import survey

# Of the training images for each split that is missing: 10 %, but no more than 10,000 images.
HELD_OUT_SHARE = 0.1
HELD_OUT_IMAGES = 10_000


def assemble(name: str, raw: RawData) -> Dataset:
    """The data set that a source's content makes.

    Raises:
        RequestError: a class is too small to split.
        BenchError: an image cannot be read.
    """
    raw_splits = _complete(raw)
    splits = {
        key: Split(_tensor(split.images), torch.from_numpy(split.labels))
        for key, split in raw_splits.items()
    }
    found = survey(splits)
    return Dataset(
        name,
        raw.classes,
        splits,
        torch.tensor(found.mean),
        torch.tensor(found.std),
        found.content_hash,
        raw.licence,
    )


def _complete(raw: RawData) -> dict[str, RawSplit]:
    splits = dict(raw.splits)
    total = len(splits["train"].labels)
    usual = min(HELD_OUT_SHARE, HELD_OUT_IMAGES / total)
    for name, share in (("test", usual), ("val", raw.val_share or usual)):
        if name not in splits:
            train = splits["train"]
            kept, held = hold_out(train.labels, share, raw.classes)
            splits["train"], splits[name] = train.select(kept), train.select(held)
    return {name: splits[name] for name in ("train", "val", "test")}


def _tensor(images: np.ndarray) -> torch.Tensor:
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels))
