"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.config import DataConfig
from bench.data.assemble import assemble
from bench.data.celeba import read_celeba
from bench.data.dataset import Dataset
from bench.data.digits import read_digits, read_mnist5k
from bench.data.embedded import read_fashion_mnist_mini
from bench.data.fashion_marked import read_fashion_marked
from bench.data.imagefolder import read_imagefolder
from bench.data.raw import RawData
from bench.data.timm_sets import read_timm
from bench.data.torchvision_sets import read_cifar10, read_cifar100, read_fashion_mnist, read_mnist
from routers.errors import RequestError, nearest

EMBEDDED: dict[str, Callable[[], RawData]] = {
    "digits": read_digits,
    "fashion_marked": read_fashion_marked,
    "fashion_mnist_mini": read_fashion_mnist_mini,
    "mnist5k": read_mnist5k,
}
IN_FOLDERS: dict[str, Callable[[str | None], RawData]] = {
    "celeba": read_celeba,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "fashion_mnist": read_fashion_mnist,
    "mnist": read_mnist,
}
PREFIXED: dict[str, Callable[[str, str | None], RawData]] = {
    "imagefolder": read_imagefolder,
    "timm": read_timm,
}
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
    return [*sorted(EMBEDDED | IN_FOLDERS), "imagefolder:PATH", "timm:NAME"]


def _read(request: DataConfig) -> RawData:
    prefix, separator, argument = request.name.partition(":")
    if separator and prefix in PREFIXED:
        return PREFIXED[prefix](argument, request.data_dir)
    if request.name in EMBEDDED:
        return EMBEDDED[request.name]()
    if request.name in IN_FOLDERS:
        return IN_FOLDERS[request.name](request.data_dir)
    known = nearest(request.name, list_datasets())
    raise RequestError(f"there is no data set {request.name!r}{known}")
