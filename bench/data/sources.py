"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from bench.config import DataConfig
from bench.data.assemble import assemble
from bench.data.dataset import Dataset
from bench.data.digits import read_digits, read_mnist5k
from bench.data.embedded import read_fashion_mnist_mini
from bench.data.fashion_marked import read_fashion_marked
from bench.data.raw import RawData
from routers.errors import RequestError, nearest

EMBEDDED: dict[str, Callable[[], RawData]] = {
    "digits": read_digits,
    "fashion_marked": read_fashion_marked,
    "fashion_mnist_mini": read_fashion_mnist_mini,
    "mnist5k": read_mnist5k,
}
# Modules that import torchvision or timm, which takes seconds: only what is asked for is imported.
IN_FOLDERS = {
    "celeba": "bench.data.celeba",
    "cifar10": "bench.data.torchvision_sets",
    "cifar100": "bench.data.torchvision_sets",
    "fashion_mnist": "bench.data.torchvision_sets",
    "mnist": "bench.data.torchvision_sets",
}
PREFIXED = {"imagefolder": "bench.data.imagefolder", "timm": "bench.data.timm_sets"}
NOT_SQUARE = {"celeba"}


def load_dataset(request: DataConfig) -> Dataset:
    """The data set of this name, its images brought to the size and channels that were asked for.

    Raises:
        RequestError: there is no such data set, or its files are missing or not as they should be.
        BenchError: a file is damaged, or cannot be downloaded.
    """
    return assemble(request.name, _read(request), request.image_size, request.channels)


def has_size(name: str) -> bool:
    """Whether all images of a data set are known to be squares of one size."""
    return name not in NOT_SQUARE and name.partition(":")[0] not in PREFIXED


def list_datasets() -> list[str]:
    """Names, with a placeholder where a name takes an argument."""
    return [*sorted({*EMBEDDED, *IN_FOLDERS}), "imagefolder:PATH", "timm:NAME"]


def _read(request: DataConfig) -> RawData:
    prefix, separator, argument = request.name.partition(":")
    if separator and prefix in PREFIXED:
        return _reader(PREFIXED[prefix], prefix)(argument, request.data_dir)
    if request.name in EMBEDDED:
        return EMBEDDED[request.name]()
    if request.name in IN_FOLDERS:
        return _reader(IN_FOLDERS[request.name], request.name)(request.data_dir)
    known = nearest(request.name, list_datasets())
    raise RequestError(f"there is no data set {request.name!r}{known}")


def _reader(module: str, name: str) -> Callable[..., RawData]:
    reader: Callable[..., RawData] = getattr(import_module(module), f"read_{name}")
    return reader
