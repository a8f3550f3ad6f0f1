"""Data sets shared between processes: loaded once, their pixels in memory-mapped files.

So a worker starts at once, whatever the size of the data, and all workers share its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.config import DataConfig
from bench.data.dataset import Dataset
from bench.data.registry import load_dataset
from bench.data.tensor_files import write_tensors
from results.text import to_json
from routers.errors import BenchError


@dataclass(frozen=True)
class SharedDataset:
    """A data set without its pixels in memory, small enough to be pickled.

    Attributes:
        dataset: the data set, with an empty tensor in place of each one in the file; images that
            are decoded on demand stay as they are.
        file: the pixels of the other images, by split.
    """

    dataset: Dataset
    file: Path

    def load(self) -> Dataset:
        """Return the whole data set; its pixels are read on first access."""
        pixels = load_file(self.file)
        splits = {
            name: replace(split, images=pixels[name]) if name in pixels else split
            for name, split in self.dataset.splits.items()
        }
        return replace(self.dataset, splits=splits)


def share(dataset: Dataset, file: Path) -> SharedDataset:
    """Write the pixels that are in memory into a file, unless it exists.

    Args:
        file: named by the content, so that an existing one holds the same pixels.
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
    return SharedDataset(replace(dataset, splits=empty), file)


class Datasets:
    """A cache of data sets, each of which is loaded once.

    Args:
        shared: the data sets that another process has loaded already.
    """

    def __init__(self, shared: Mapping[str, SharedDataset] | None = None) -> None:
        self._shared = shared or {}
        self._loaded: dict[str, Dataset] = {}

    def get(self, config: DataConfig) -> Dataset:
        """Return the data set of a configuration.

        Raises:
            BenchError: the data set is missing or invalid.
        """
        key = _key(config)
        if key not in self._loaded:
            shared = self._shared.get(key)
            self._loaded[key] = load_dataset(config) if shared is None else shared.load()
        return self._loaded[key]

    def hash_of(self, config: DataConfig) -> str:
        """Return the content hash of a data set, which is loaded. Errors as of `get`."""
        return self.get(config).content_hash

    def share(self, folder: Path) -> dict[str, SharedDataset]:
        """Share all loaded data sets with other processes, through files in a folder."""
        return {
            key: share(loaded, folder / f"{loaded.content_hash}.safetensors")
            for key, loaded in self._loaded.items()
        }


def _key(config: DataConfig) -> str:
    return to_json(config.model_dump(mode="json", exclude={"augment"}))


@dataclass(frozen=True)
class DataShape:
    """The shape of a data set, which need not be on this machine.

    Attributes:
        image_shape: (channels, height, width).
        num_classes: number of labels.
        num_samples: images of the training split.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_samples: int


KNOWN_SHAPES = {
    "celeba": DataShape((3, 64, 64), 2, 162_770),
    "cifar10": DataShape((3, 32, 32), 10, 45_000),
    "cifar100": DataShape((3, 32, 32), 100, 45_000),
    "fashion_mnist": DataShape((1, 28, 28), 10, 54_000),
    "mnist": DataShape((1, 28, 28), 10, 54_000),
    "timm:torch/imagenet": DataShape((3, 224, 224), 1000, 1_271_167),
}
"""Shapes of data sets that may have to be downloaded first, with the images left for training.

CelebA and ImageNet have images of any size; the usual one is given.
"""


def load_with_shape(config: DataConfig, datasets: Datasets) -> tuple[DataShape, Dataset | None]:
    """Load a data set; returns its shape alone where a well-known data set is missing.

    Raises:
        BenchError: the data set is missing, and its shape is not known.
    """
    try:
        dataset = datasets.get(config)
    except BenchError:
        if config.name not in KNOWN_SHAPES:
            raise
        return _brought_to(KNOWN_SHAPES[config.name], config), None
    shape, classes = dataset.image_shape, dataset.num_classes
    return DataShape(shape, classes, len(dataset.splits["train"])), dataset


def _brought_to(known: DataShape, config: DataConfig) -> DataShape:
    channels, height, width = known.image_shape
    size = config.image_size
    shape = (config.channels or channels, size or height, size or width)
    return DataShape(shape, known.num_classes, known.num_samples)
