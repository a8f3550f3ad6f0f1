"""MNIST, Fashion-MNIST and CIFAR: read from disk if present, else downloaded by torchvision."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data.dataset import DataShape
from bench.data.files import check_md5, data_folder, downloading, read_idx
from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, MNIST

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# Debian recompresses the same files.
DEBIAN_MD5 = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}


@register_dataset("mnist", family="downloaded", shape=DataShape((1, 28, 28), 10, 54_000))
def read_mnist(folder: Path | None) -> RawData:
    """60,000 + 10,000 handwritten digits of 28 × 28 pixels."""
    from torchvision.datasets import MNIST

    return _read_mnist_like(MNIST, folder, "CC BY-SA 3.0, Yann LeCun and Corinna Cortes")


@register_dataset(
    "fashion_mnist",
    family="downloaded",
    source="arXiv 1708.07747",
    shape=DataShape((1, 28, 28), 10, 54_000),
)
def read_fashion_mnist(folder: Path | None) -> RawData:
    """60,000 + 10,000 pieces of clothing of 28 × 28 pixels."""
    from torchvision.datasets import FashionMNIST

    return _read_mnist_like(FashionMNIST, folder, "MIT, © 2017 Zalando SE")


@register_dataset("cifar10", family="downloaded", shape=DataShape((3, 32, 32), 10, 45_000))
def read_cifar10(folder: Path | None) -> RawData:
    """50,000 + 10,000 colour images of 32 × 32 pixels in 10 classes."""
    from torchvision.datasets import CIFAR10

    return _read_cifar(CIFAR10, folder)


@register_dataset("cifar100", family="downloaded", shape=DataShape((3, 32, 32), 100, 45_000))
def read_cifar100(folder: Path | None) -> RawData:
    """50,000 + 10,000 colour images of 32 × 32 pixels in 100 classes."""
    from torchvision.datasets import CIFAR100

    return _read_cifar(CIFAR100, folder)


def _read_mnist_like(source: type[MNIST], data_dir: Path | None, licence: str) -> RawData:
    root = data_folder(data_dir)
    downloaded = root / source.__name__ / "raw"
    candidates = [root, root / "raw", downloaded]
    if source.__name__ == "FashionMNIST" and data_dir is None:
        candidates.append(DEBIAN_FASHION_MNIST)
    names = [name for name, _ in source.resources]
    begun = (each for each in candidates if any((each / name).exists() for name in names))
    folder = next(begun, downloaded)
    if folder == downloaded and not all((folder / name).exists() for name in names):
        with downloading(source.__name__, names, folder):
            source(root, download=True)
    again = DEBIAN_MD5 if folder == DEBIAN_FASHION_MNIST else {}
    for name, md5 in source.resources:
        check_md5(folder / name, {md5, again.get(name, md5)})
    splits = {
        split: RawSplit(
            read_idx(folder / f"{stem}-images-idx3-ubyte.gz"),
            read_idx(folder / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64),
        )
        for split, stem in (("train", "train"), ("test", "t10k"))
    }
    return RawData(tuple(source.classes), splits, licence)


def _read_cifar(source: type[CIFAR10], data_dir: Path | None) -> RawData:
    root = data_folder(data_dir)
    if root.name == source.base_folder:
        root = root.parent
    folder = root / source.base_folder
    if not folder.exists():
        with downloading(source.__name__, [source.filename], root):
            source(root, download=True)
    meta = [source.meta["filename"], source.meta["md5"]]
    for name, md5 in [*source.train_list, *source.test_list, meta]:
        check_md5(folder / name, {md5})
    with warnings.catch_warnings():
        # The files were pickled by an old numpy, whose dtypes make the newest one warn.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        parts = {split: source(root, train=split == "train") for split in ("train", "test")}
    splits = {
        name: RawSplit(part.data, np.array(part.targets, np.int64)) for name, part in parts.items()
    }
    licence = "none stated, see https://www.cs.toronto.edu/~kriz/cifar.html"
    return RawData(tuple(parts["train"].classes), splits, licence)
