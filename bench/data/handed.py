"""A data set handed to other processes: loaded and surveyed once, its pixels in a file they map.

A worker so starts at once, whatever the size of the data, and all of them share its memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.checkpoint import write_tensors
from bench.data.dataset import Dataset


@dataclass(frozen=True)
class HandedDataset:
    """A data set without its pixels in memory, small enough to be pickled.

    Attributes:
        dataset: with an empty tensor in the place of each that lies in the file; images that are
            decoded when they are asked for stay as they are.
        file: the others' pixels, by split.
    """

    dataset: Dataset
    file: Path

    def load(self) -> Dataset:
        """The whole data set; its pixels are read when they are touched."""
        pixels = load_file(self.file)
        splits = {
            name: replace(split, images=pixels[name]) if name in pixels else split
            for name, split in self.dataset.splits.items()
        }
        return replace(self.dataset, splits=splits)


def hand(dataset: Dataset, file: Path) -> HandedDataset:
    """Write the pixels that are in memory into a file; one that is there holds the same.

    Args:
        file: named by the content.
    """
    splits = dataset.splits
    pixels = {
        name: split.images for name, split in splits.items() if isinstance(split.images, Tensor)
    }
    if not file.exists():
        write_tensors(pixels, file)
    empty = {
        name: replace(split, images=torch.empty(0)) if name in pixels else split
        for name, split in splits.items()
    }
    return HandedDataset(replace(dataset, splits=empty), file)
