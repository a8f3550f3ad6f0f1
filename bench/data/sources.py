"""Data sets by name."""

from __future__ import annotations

from bench.config import DataConfig
from bench.data.assemble import assemble
from bench.data.dataset import Dataset
from bench.data.digits import read_digits, read_mnist5k
from bench.data.embedded import read_fashion_mnist_mini
from routers.errors import RequestError, nearest

SOURCES = {
    "digits": read_digits,
    "fashion_mnist_mini": read_fashion_mnist_mini,
    "mnist5k": read_mnist5k,
}


def load_dataset(request: DataConfig) -> Dataset:
    """The data set of this name.

    Raises:
        RequestError: there is none of this name.
    """
    if request.name not in SOURCES:
        raise RequestError(f"there is no data set {request.name!r}{nearest(request.name, SOURCES)}")
    return assemble(request.name, SOURCES[request.name]())
