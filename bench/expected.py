"""The shape of a data set, known or read, so that a plan can be made where the data is not."""

from __future__ import annotations

from bench.config import DataConfig
from bench.data.dataset import Dataset
from bench.data.dataset import ExpectedData
from bench.datasets import Datasets
from routers.errors import BenchError

KNOWN = {
    "celeba": ExpectedData((3, 64, 64), 2, 162_770),
    "cifar10": ExpectedData((3, 32, 32), 10, 45_000),
    "cifar100": ExpectedData((3, 32, 32), 100, 45_000),
    "fashion_mnist": ExpectedData((1, 28, 28), 10, 54_000),
    "mnist": ExpectedData((1, 28, 28), 10, 54_000),
    "timm:torch/imagenet": ExpectedData((3, 224, 224), 1000, 1_271_167),
}
"""Data sets that may have to be fetched first. Training images are those left for training.

CelebA and ImageNet have no size of their own: they stand with one that is usual for them.
"""


def load_or_expect(config: DataConfig, datasets: Datasets) -> tuple[ExpectedData, Dataset | None]:
    """The data set and its shape; the shape alone where a known data set is not here.

    Raises:
        BenchError: it is not here, and nothing is known of it.
    """
    try:
        dataset = datasets.get(config)
    except BenchError:
        if config.name not in KNOWN:
            raise
        return _brought_to(KNOWN[config.name], config), None
    shape, classes = dataset.image_shape, dataset.num_classes
    return ExpectedData(shape, classes, len(dataset.splits["train"])), dataset


def _brought_to(known: ExpectedData, config: DataConfig) -> ExpectedData:
    channels, height, width = known.image_shape
    size = config.image_size
    shape = (config.channels or channels, size or height, size or width)
    return ExpectedData(shape, known.num_classes, known.num_samples)
