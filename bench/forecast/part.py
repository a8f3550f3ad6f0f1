"""A data set with less to evaluate on."""

from __future__ import annotations

import math
from dataclasses import replace

from bench.data import Dataset
from bench.data.dataset import Split


def part_of(dataset: Dataset, share: float, batch_size: int) -> Dataset:
    """The same, with the first images of the validation and test splits.

    Args:
        share: of each split; rounded up to whole batches, as models with groups of several images
            need them, and at most all of it.
        batch_size: images of a batch.
    """
    cut = {
        name: _first(split, batch_size * math.ceil(share * len(split) / batch_size))
        for name, split in dataset.splits.items()
        if name != "train"
    }
    return replace(dataset, splits={**dataset.splits, **cut})


def _first(split: Split, images: int) -> Split:
    """Its length is that of the labels; images may be decoded when they are asked for."""
    attribute = None if split.attribute is None else split.attribute[:images]
    return replace(split, labels=split.labels[:images], attribute=attribute)
