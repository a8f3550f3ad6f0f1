"""A class-balanced 6,000 + 2,000 images from Fashion-MNIST (arXiv 1708.07747, MIT licence)."""

from pathlib import Path

import numpy as np

from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset

FILE = Path(__file__).with_name("images.npz")
CONTENT_HASH = "c4431556597fd224d9d50b5e7bcffe1c8dca120b043331221f89cd8b8a44c95a"
"""`Dataset.content_hash` of these images; `bench.py doctor` uses it to check them."""

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@register_dataset("fashion_mnist_mini", family="in this repository", source="arXiv 1708.07747")
def read_fashion_mnist_mini(_folder: Path | None = None) -> RawData:
    """600 training images of each class, 100 of them for validation, and 200 test images."""
    with np.load(FILE, allow_pickle=False) as arrays:
        splits = {
            name: RawSplit(arrays[f"{name}_images"], arrays[f"{name}_labels"].astype(np.int64))
            for name in ("train", "test")
        }
    return RawData(CLASSES, splits, "MIT, © 2017 Zalando SE", val_share=1 / 6)
