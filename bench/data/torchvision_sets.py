"""MNIST, Fashion-MNIST and CIFAR: read from where they lie, else downloaded by torchvision."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from torchvision.datasets.utils import calculate_md5

from bench.data.folders import data_folder
from bench.data.idx import read_idx
from bench.data.raw import RawData, RawSplit
from routers.errors import BenchError, RequestError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# Debian has compressed the same files anew.
DEBIAN_MD5 = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}
CONNECT_SECONDS = 20


def read_mnist(data_dir: str | None) -> RawData:
    """60,000 + 10,000 handwritten digits of 28 × 28 pixels."""
    return _read_mnist_like(MNIST, data_dir, "CC BY-SA 3.0, Yann LeCun and Corinna Cortes")


def read_fashion_mnist(data_dir: str | None) -> RawData:
    """60,000 + 10,000 pieces of clothing of 28 × 28 pixels (arXiv 1708.07747)."""
    return _read_mnist_like(FashionMNIST, data_dir, "MIT, © 2017 Zalando SE")


def read_cifar10(data_dir: str | None) -> RawData:
    """50,000 + 10,000 colour images of 32 × 32 pixels in 10 classes."""
    return _read_cifar(CIFAR10, data_dir)


def read_cifar100(data_dir: str | None) -> RawData:
    """50,000 + 10,000 colour images of 32 × 32 pixels in 100 classes."""
    return _read_cifar(CIFAR100, data_dir)


def _read_mnist_like(source: type[MNIST], data_dir: str | None, licence: str) -> RawData:
    root = data_folder(data_dir)
    downloaded = root / source.__name__ / "raw"
    candidates = [root, root / "raw", downloaded]
    if source is FashionMNIST and data_dir is None:
        candidates.append(DEBIAN_FASHION_MNIST)
    names = [name for name, _ in source.resources]
    begun = (c for c in candidates if any((c / name).exists() for name in names))
    folder = next(begun, downloaded)
    if folder == downloaded and not all((folder / name).exists() for name in names):
        with _downloading(source.__name__, names, folder):
            source(root, download=True)
    for name, md5 in source.resources:
        _check(folder / name, {md5, DEBIAN_MD5[name]} if folder == DEBIAN_FASHION_MNIST else {md5})
    splits = {
        split: RawSplit(
            read_idx(folder / f"{stem}-images-idx3-ubyte.gz"),
            read_idx(folder / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64),
        )
        for split, stem in (("train", "train"), ("test", "t10k"))
    }
    return RawData(tuple(source.classes), splits, licence)


def _read_cifar(source: type[CIFAR10], data_dir: str | None) -> RawData:
    root = data_folder(data_dir)
    if root.name == source.base_folder:
        root = root.parent
    folder = root / source.base_folder
    if not folder.exists():
        with _downloading(source.__name__, [source.filename], root):
            source(root, download=True)
    meta = [source.meta["filename"], source.meta["md5"]]
    for name, md5 in [*source.train_list, *source.test_list, meta]:
        _check(folder / name, {md5})
    with warnings.catch_warnings():
        # The files were pickled by a numpy whose dtypes the newest one warns of.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        parts = {split: source(root, train=split == "train") for split in ("train", "test")}
    splits = {
        name: RawSplit(part.data, np.array(part.targets, np.int64)) for name, part in parts.items()
    }
    licence = "none stated, see https://www.cs.toronto.edu/~kriz/cifar.html"
    return RawData(tuple(parts["train"].classes), splits, licence)


def _check(file: Path, accepted: set[str]) -> None:
    if not file.exists():
        raise RequestError(f"{file.name} is missing in {file.parent}, where its sister files are")
    found = calculate_md5(file)
    if found not in accepted:
        raise BenchError(
            f"{file} is damaged or another file: its MD5 is {found}, not "
            f"{' or '.join(sorted(accepted))}; delete it, or put the right one there"
        )


@contextmanager
def _downloading(title: str, files: list[str], folder: Path) -> Iterator[None]:
    """Give up soon where there is no network, and say what to put where."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    except (RuntimeError, URLError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise BenchError(
            f"{title} is not wholly on this machine and cannot be downloaded ({reason}); "
            f"put {', '.join(files)} into {folder}, or name their folder by data.data_dir"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
