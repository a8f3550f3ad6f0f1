"""Data sets returned by a user's function: what is accepted, and the messages otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.config.schema import DataConfig
from bench.data import DATASETS, RawData, RawSplit, load_dataset, register_dataset
from routers import RequestError

NAME = "registered_by_a_test"
CLASSES = ("even", "odd")


def images(count: int = 40, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, *(shape or (6, 6, 3))), dtype=np.uint8)


def labels(count: int = 40) -> np.ndarray:
    return np.arange(count) % 2


@pytest.fixture
def load_returned() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Load what a function returns."""

    def load(make: Callable[[], Any], **options: Any) -> Any:
        def read(folder: Path | None) -> RawData:
            """Return whatever the test makes."""
            content: RawData = make()
            return content

        DATASETS.discard(NAME)
        register_dataset(NAME)(read)
        return load_dataset(DataConfig(name=NAME, **options))

    yield load
    DATASETS.discard(NAME)


def test_arrays_are_split_as_given_or_else_class_by_class(load_returned):
    def loaded(**splits):
        return load_returned(lambda: RawData.from_arrays(images(), labels(), CLASSES, **splits))

    def sizes(dataset):
        return {name: len(split) for name, split in dataset.splits.items()}

    assert sizes(loaded()) == {"train": 32, "val": 4, "test": 4}
    assert sizes(loaded(test=range(30, 40))) == {"train": 26, "val": 4, "test": 10}
    chosen = loaded(train=[4, 1, 2, 3], val=[6, 7], test=np.array([9, 8]))
    assert sizes(chosen) == {"train": 4, "val": 2, "test": 2}
    assert chosen.splits["test"].labels.tolist() == [1, 0]
    assert (chosen.splits["test"].images[0].permute(1, 2, 0).numpy() == images()[9]).all()
    assert chosen.image_shape == (3, 6, 6)


@pytest.mark.parametrize("options", [{}, {"image_size": 9}, {"channels": 3}])
def test_grey_images_may_have_a_channel_axis(load_returned, options):
    grey, small = images(40, 6, 6), labels().astype(np.uint8)
    flat = load_returned(lambda: RawData.from_arrays(grey, labels(), CLASSES), **options)
    deep = load_returned(lambda: RawData.from_arrays(grey[..., None], small, CLASSES), **options)
    assert flat.content_hash == deep.content_hash
    assert flat.image_shape[0] == options.get("channels", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"images": images()}, "its function returns a dict, not a RawData"),
        (lambda: RawData(CLASSES, {"test": RawSplit(images(), labels())}, ""), "no split 'train'"),
        (
            lambda: RawData(
                CLASSES, dict.fromkeys(("train", "valid"), RawSplit(images(), labels())), ""
            ),
            "a split 'valid'; did you mean 'val'?",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), ("all",)),
            "it has too few classes, 1; 2 are needed",
        ),
        (lambda: RawData.from_arrays(images(), labels(), ("a", "a")), "two classes are named 'a'"),
        (lambda: RawData.from_arrays(images(), labels(), (0, 1)), "the name of class 0 is 0, not"),
        (
            lambda: RawData.from_arrays(images() / 255, labels(), CLASSES),
            "the images of train are float64; give uint8, from 0 to 255",
        ),
        (
            lambda: RawData.from_arrays(images(40, 3, 6, 6), labels(), CLASSES),
            r"the images of train have the shape \(40, 3, 6, 6\); give \(images, height, width",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), CLASSES, test=range(40)),
            r"train has no images: their shape is \(0, 6, 6, 3\)",
        ),
        (
            lambda: RawData.from_arrays(images(), labels() / 1, CLASSES),
            "the labels of train are float64; give an array of integers",
        ),
        (
            lambda: RawData.from_arrays(images(), labels() + 1, CLASSES),
            "the labels of train contain 2; with 2 names they go from 0 to 1",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(39), CLASSES),
            r"images have the shape \(40, 6, 6, 3\) and labels \(39,\); give one label for each",
        ),
        (
            lambda: RawData(CLASSES, {"train": RawSplit(images(), labels(39))}, ""),
            r"the labels of train have the shape \(39,\); there are 40 images",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), CLASSES, val=[3], test=[2, 3]),
            "image 3 is in val and in test; splits must not overlap",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), CLASSES, test=[2, 2]),
            "image 2 is in test twice; splits must not overlap",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), CLASSES, test=[40]),
            "test names image 40; there are 40, from 0",
        ),
        (
            lambda: RawData.from_arrays(images(), labels(), CLASSES, test=[1, 3]),
            "no image in test of class 'even'",
        ),
    ],
)
def test_each_mistake_is_one_clear_message(load_returned, make, message):
    with pytest.raises(RequestError, match=f"{NAME}.*{message}"):
        load_returned(make)
