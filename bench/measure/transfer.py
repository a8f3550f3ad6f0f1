"""Other data sets that a suite measures a trained model on."""

from __future__ import annotations

from functools import cache
from typing import Any

from bench.config import DataConfig
from bench.data import Dataset, load_dataset
from routers import RequestError
from suites import Suite


@cache
def _loaded(config: DataConfig) -> Dataset:
    return load_dataset(config)


def transfer_set(name: str, dataset: Dataset) -> Dataset:
    """Load another data set, its images as large as those of the model's data set.

    Raises:
        RequestError: there is none of that name, or its images have other channels.
    """
    channels, height, _ = dataset.image_shape
    transfer = _loaded(DataConfig(name=name, image_size=height))
    if (own := transfer.image_shape[0]) != channels:
        raise RequestError(
            f"{name!r} has images of {own} channel{'s' * (own != 1)}, and the model was trained "
            f"on {channels}; transfer to a data set of {channels}, or set data.channels={own}"
        )
    return transfer


def refuse_transfer(suite: Suite[Any], dataset: Dataset) -> None:
    """Refuse transfer sets that a suite cannot use with a model of this data set.

    Raises:
        RequestError: as `transfer_set`, or a class has too few training images; it names the suite.
    """
    for name, needed in suite.transfers().items():
        try:
            labels = transfer_set(name, dataset).splits["train"].labels
        except RequestError as error:
            raise RequestError(f"suite {suite.name}: {error}") from None
        images = labels.bincount().tolist()
        if (fewest := min(images)) < needed:
            raise RequestError(
                f"suite {suite.name}: class {images.index(fewest)} of {name!r} has {fewest} "
                f"training images, and {needed} of each are needed; ask for {fewest} or fewer"
            )
