"""Data sets by name: each is a function in this folder, a user's file or a package.

    @register_dataset("shapes", family="mine", source="where it was published")
    def shapes(folder: Path | None) -> RawData:
        \"\"\"A thousand drawings of circles and squares.\"\"\"
        images, labels = draw()  # uint8 (n, height, width) or (n, height, width, 3); int (n,)
        return RawData.from_arrays(images, labels, ("circle", "square"))

The function receives the folder that `data.data_dir` names, or None. If the registered name has a
colon, as in `imagefolder:PATH`, the function receives what a request puts after the colon as its
second argument. Fingerprints depend on the returned content, not on the function's source.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.config import DataConfig
from bench.data.assembly import assemble
from bench.data.dataset import Dataset, DataShape
from bench.data.files import expanded, write_tensors
from bench.data.raw import RawData, refuse_invalid
from results.text import to_json
from routers.errors import BenchError, RequestError
from routers.registry import Entry, Registry, Target

DATASETS = Registry("dataset")
KNOWN_SHAPES: dict[str, DataShape] = {}
"""Shapes of data sets that may need downloading; sample counts exclude the held-out images."""
_NOT_SQUARE: set[str] = set()


def register_dataset(
    name: str, *, shape: DataShape | None = None, square: bool = True, **described: Any
) -> Callable[[Target], Target]:
    """Return a decorator that registers the function that reads a data set.

    Args:
        name: a name such as `digits` or `imagefolder:PATH`.
        shape: the shape of data that may need downloading, so that a study can be planned before
            the download.
        square: whether all images are squares of one size.
        described: see `Registry.register`.
    """
    if shape is not None:
        KNOWN_SHAPES[name] = shape
    if not square:
        _NOT_SQUARE.add(name)
    return DATASETS.register(name, **described)


def find_dataset(name: str) -> tuple[Entry, tuple[str, ...]]:
    """Return the registered data set of a name, and the arguments that the name contains.

    `digits` has none, `imagefolder:/my/images` has one. Raises `RequestError` for an unknown name.
    """
    prefix, colon, argument = name.partition(":")
    for entry in DATASETS.entries():
        own, takes, _ = entry.name.partition(":")
        if colon and takes and own == prefix:
            return entry, (argument,)
    return DATASETS.get(name), ()


def has_size(name: str) -> bool:
    """Tell whether all images of a data set should be squares of one size."""
    entry, arguments = find_dataset(name)
    return not arguments and entry.name not in _NOT_SQUARE


def load_dataset(request: DataConfig) -> Dataset:
    """Load the requested data set, with images of the requested size and channels.

    Raises:
        RequestError: as in `read_source` and `assemble`, or its function returns invalid content.
    """
    raw = refuse_invalid(request.name, read_source(request.name, request.data_dir))
    return assemble(request.name, raw, request.image_size, request.channels)


def read_source(name: str, data_dir: str | None = None) -> RawData:
    """Call a data set's function and return its result, which is not validated yet.

    Raises:
        RequestError: there is no such data set, it cannot be read, or a user's function fails.
    """
    entry, arguments = find_dataset(name)
    folder = expanded(data_dir) if data_dir else None
    try:
        raw: RawData = entry.target(folder, *arguments)
    except Exception as error:
        if entry.target.__module__.startswith("bench.data."):
            raise
        kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
        where = _raised_at(error, entry.target)
        raise RequestError(f"data set {name!r} cannot be read: {where}{kind}{error}") from error
    return raw


def _raised_at(error: Exception, target: Any) -> str:
    """Return the last line of the function's own file in an error's traceback; "" if none."""
    file = inspect.getsourcefile(target)
    own = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    return f"{file}:{own[-1].lineno}: {own[-1].line} — " if own else ""


@dataclass(frozen=True)
class SharedDataset:
    """A data set whose pixels are in a file, so that the object is small enough to pickle.

    A worker thus starts at once, however large the data are, and all workers share the memory.

    Attributes:
        dataset: the data set, with an empty tensor in place of each one in the file; images that
            are decoded on demand stay as they are.
        file: the pixels of the images in memory, by split; memory-mapped on loading.
    """

    dataset: Dataset
    file: Path

    @classmethod
    def of(cls, dataset: Dataset, folder: Path) -> SharedDataset:
        """Write the pixels that are in memory to a file in `folder`, unless it exists."""
        file = folder / f"{dataset.content_hash}.safetensors"
        splits = dataset.splits
        pixels = {
            name: split.images for name, split in splits.items() if isinstance(split.images, Tensor)
        }
        if not file.exists():
            write_tensors(pixels, file)
        empty = dict.fromkeys(pixels, torch.empty(0))
        return cls(_with_images(dataset, empty), file)

    def load(self) -> Dataset:
        """Return the whole data set; its pixels are read on first access."""
        return _with_images(self.dataset, load_file(self.file))


def _with_images(dataset: Dataset, images: Mapping[str, Tensor]) -> Dataset:
    """Return the data set with other images in some of its splits."""
    splits = {
        name: replace(split, images=images.get(name, split.images))
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


class Datasets:
    """A cache that loads each data set once; `shared` holds those that another process loaded."""

    def __init__(self, shared: Mapping[str, SharedDataset] | None = None) -> None:
        self._shared = shared or {}
        self._loaded: dict[str, Dataset] = {}

    def get(self, config: DataConfig) -> Dataset:
        """Return the data set of a configuration; `BenchError` if it is missing or invalid."""
        key = to_json(config.model_dump(mode="json", exclude={"augment"}))
        if key not in self._loaded:
            shared = self._shared.get(key)
            self._loaded[key] = load_dataset(config) if shared is None else shared.load()
        return self._loaded[key]

    def hash_of(self, config: DataConfig) -> str:
        """Return the content hash of a data set, loading it first. Raises errors as `get` does."""
        return self.get(config).content_hash

    def share(self, folder: Path) -> dict[str, SharedDataset]:
        """Share all loaded data sets with other processes through files in a folder."""
        return {key: SharedDataset.of(loaded, folder) for key, loaded in self._loaded.items()}


def load_with_shape(config: DataConfig, datasets: Datasets) -> tuple[DataShape, Dataset | None]:
    """Load a data set; return its shape alone if it is missing but its shape is known.

    Raises `BenchError` if a data set of unknown shape is missing.
    """
    try:
        dataset = datasets.get(config)
    except BenchError:
        if config.name not in KNOWN_SHAPES:
            raise
        known = KNOWN_SHAPES[config.name]
        channels, height, width = known.image_shape
        size = config.image_size
        shape = (config.channels or channels, size or height, size or width)
        return replace(known, image_shape=shape), None
    samples = len(dataset.splits["train"])
    return DataShape(dataset.image_shape, dataset.num_classes, samples), dataset
