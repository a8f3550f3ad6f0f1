"""`fashion_marked` is what its description says, and a classifier relies on the mark."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bench.config.schema import DataConfig
from bench.data import Dataset, load_dataset
from bench.data.fashion_marked import read_fashion_marked
from bench.data.fashion_mnist_mini import read_fashion_mnist_mini

GARMENTS = {"T-shirt/top": 0, "Pullover": 0, "Coat": 1, "Shirt": 1}


@pytest.fixture(scope="module")
def marked() -> Dataset:
    return load_dataset(DataConfig(name="fashion_marked"))


def erased(images: NDArray[Any]) -> NDArray[Any]:
    """Return images (n, h, w) with a black corner."""
    without = images.copy()
    without[:, :4, :4] = 0
    return without


def test_fashion_marked_is_the_same_on_every_machine(marked):
    expected = "3a6ab52bdf72e977f2f14437d9b32803ff99d580eb2d7e42373aa0f65a36273a"
    assert marked.content_hash == expected


def test_every_split_has_images_of_all_four_subgroups(marked):
    counts = {
        name: (2 * split.labels + split.attribute).bincount().tolist()
        for name, split in marked.splits.items()
    }
    assert counts == {
        "train": [950, 50, 50, 950],
        "val": [190, 10, 10, 190],
        "test": [80, 320, 320, 80],
    }
    assert marked.classes == ("T-shirt or pullover", "shirt or coat")
    assert marked.attributes == ("unmarked", "marked")
    assert marked.licence.startswith("built from Fashion-MNIST")


@pytest.mark.parametrize(("split", "share"), [("train", 0.95), ("test", 0.2)])
def test_an_image_shows_a_garment_and_its_corner_says_whether_it_is_marked(split, share):
    source = read_fashion_mnist_mini()
    before, after = source.splits[split], read_fashion_marked().splits[split]
    names = np.array(source.classes)[before.labels]
    chosen = np.isin(names, list(GARMENTS))
    assert np.array_equal(erased(after.images), erased(before.images[chosen]))
    assert after.labels.tolist() == [GARMENTS[name] for name in names[chosen]]
    corners = after.images[:, :4, :4]
    assert np.array_equal((corners == 255).all((1, 2)), after.attribute == 1)
    plain = after.attribute == 0
    assert np.array_equal(corners[plain], before.images[chosen][plain, :4, :4])
    for name in GARMENTS:  # otherwise the mark would distinguish garments of one class
        of_name = names[chosen] == name
        assert (after.attribute == after.labels)[of_name].mean() == pytest.approx(share)


def test_a_linear_classifier_mistakes_the_mark_for_the_class(marked):
    features, labels, attributes = {}, {}, {}
    for name, split in marked.splits.items():
        features[name] = split.images[:, 0].numpy() / 255
        labels[name], attributes[name] = split.labels.numpy(), split.attribute.numpy()

    def right(change=lambda images: images):
        flat = {name: change(images).reshape(len(images), -1) for name, images in features.items()}
        model = LogisticRegression(C=0.01, max_iter=500).fit(flat["train"], labels["train"])
        return {name: model.predict(flat[name]) == labels[name] for name in ("val", "test")}

    biased, fair = right(), right(erased)
    assert biased["val"].mean() > 0.9
    assert biased["test"].mean() < 0.35
    assert fair["val"].mean() > 0.75
    assert fair["test"].mean() > 0.75

    positive, has_mark = labels["test"] == 1, attributes["test"] == 1

    def opportunity(correct):
        """Return the true positive rate with the mark minus that without it."""
        return correct[positive & has_mark].mean() - correct[positive & ~has_mark].mean()

    assert opportunity(biased["test"]) > 0.8
    assert abs(opportunity(fair["test"])) < 0.15
