"""Write images.npz from the files of Fashion-MNIST: the first images of every class.

    python -m bench.data.fashion_mnist_mini.make FOLDER [OUTPUT]

FOLDER holds the four `*-ubyte.gz` files, as in Debian's package `dataset-fashion-mnist`.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

from bench.data.fashion_mnist_mini import FILE
from bench.data.files import read_idx


def first_of_each_class(
    images: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Select the first `count` images (n, h, w) of each class, class by class, and labels (n,)."""
    chosen = np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)])
    return images[chosen], labels[chosen]


def select(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the embedded file, selected from the original files."""
    arrays = {}
    for split, stem, count in (("train", "train", 600), ("test", "t10k", 200)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = first_of_each_class(
            read_idx(folder / f"{stem}-images-idx3-ubyte.gz"),
            read_idx(folder / f"{stem}-labels-idx1-ubyte.gz"),
            count,
        )
    return arrays


def write(arrays: dict[str, np.ndarray], output: Path) -> None:
    """Write an npz with LZMA-compressed, undated members, one eighth smaller than numpy's own."""
    with zipfile.ZipFile(output, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_LZMA
            with archive.open(member, "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


if __name__ == "__main__":
    folder, *output = map(Path, sys.argv[1:])
    write(select(folder), *(output or [FILE]))
