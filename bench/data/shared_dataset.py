"""A data set handed to other processes: loaded and surveyed once, its pixels in a file they map.

A worker so starts at once, whatever the size of the data, and all of them share its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.config import DataConfig
from bench.data.dataset import Dataset, ExpectedData
from bench.data.registry import load_dataset
from bench.data.tensor_files import write_tensors
from results.canonical import to_json
from routers.errors import BenchError


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


class Datasets:
    """Loads on the first call, and hands out the same object from then on.

    Args:
        handed: those that another process has loaded already.
    """

    def __init__(self, handed: Mapping[str, HandedDataset] | None = None) -> None:
        self._handed = handed or {}
        self._loaded: dict[str, Dataset] = {}

    def get(self, config: DataConfig) -> Dataset:
        """The data set that a configuration asks for.

        Raises:
            BenchError: it is not there, or not what it should be.
        """
        key = _key(config)
        if key not in self._loaded:
            handed = self._handed.get(key)
            self._loaded[key] = load_dataset(config) if handed is None else handed.load()
        return self._loaded[key]

    def hash_of(self, config: DataConfig) -> str:
        """The hash of its content; loads it. Errors as of `get`."""
        return self.get(config).content_hash

    def hand(self, folder: Path) -> dict[str, HandedDataset]:
        """All that are loaded, for `Datasets` of other processes; their pixels lie in a folder."""
        return {
            key: hand(loaded, folder / f"{loaded.content_hash}.safetensors")
            for key, loaded in self._loaded.items()
        }


def _key(config: DataConfig) -> str:
    return to_json(config.model_dump(mode="json", exclude={"augment"}))


KNOWN = {
    "celeba": ExpectedData((3, 64, 64), 2, 162_770),
    "cifar10": ExpectedData((3, 32, 32), 10, 45_000),
    "cifar100": ExpectedData((3, 32, 32), 100, 45_000),
    "fashion_mnist": ExpectedData((1, 28, 28), 10, 54_000),
    "mnist": ExpectedData((1, 28, 28), 10, 54_000),
    "timm:torch/imagenet": ExpectedData((3, 224, 224), 1000, 1_271_167),
}
"""Data sets that may have to be fetched first. Training images are those left for training.

CelebA and ImageNet have no size of their own: they stand with one that is usual for them.
"""


def load_or_expect(config: DataConfig, datasets: Datasets) -> tuple[ExpectedData, Dataset | None]:
    """The data set and its shape; the shape alone where a known data set is not here.

    Raises:
        BenchError: it is not here, and nothing is known of it.
    """
    try:
        dataset = datasets.get(config)
    except BenchError:
        if config.name not in KNOWN:
            raise
        return _brought_to(KNOWN[config.name], config), None
    shape, classes = dataset.image_shape, dataset.num_classes
    return ExpectedData(shape, classes, len(dataset.splits["train"])), dataset


def _brought_to(known: ExpectedData, config: DataConfig) -> ExpectedData:
    channels, height, width = known.image_shape
    size = config.image_size
    shape = (config.channels or channels, size or height, size or width)
    return ExpectedData(shape, known.num_classes, known.num_samples)
