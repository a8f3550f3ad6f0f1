from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config.schema import DataConfig
from bench.data import load_dataset, normalise
from bench.data.fashion_mnist_mini import FILE
from bench.data.fashion_mnist_mini.make import select, write

DEBIAN = [folder for folder in [Path("/usr/share/datasets/fashion-mnist")] if folder.is_dir()]


def load(name):
    return load_dataset(DataConfig(name=name))


@pytest.fixture(scope="module")
def mini():
    return load("fashion_mnist_mini")


@pytest.mark.parametrize("folder", DEBIAN)
def test_the_script_reproduces_the_embedded_arrays(folder):
    made = select(folder)
    with np.load(FILE, allow_pickle=False) as embedded:
        assert list(made) == list(embedded)
        for name, array in made.items():
            assert array.dtype == embedded[name].dtype
            assert np.array_equal(array, embedded[name])


def test_the_script_writes_the_same_bytes_every_time(tmp_path):
    with np.load(FILE, allow_pickle=False) as embedded:
        arrays = {"images": embedded["test_images"][:50], "labels": embedded["test_labels"][:50]}
    for name in ("once", "twice"):
        write(arrays, tmp_path / name)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()
    with np.load(tmp_path / "once", allow_pickle=False) as written:
        assert np.array_equal(written["images"], arrays["images"])
        assert written["images"].nbytes > 1.5 * (tmp_path / "once").stat().st_size


def test_the_embedded_images_are_the_chosen_ones(mini):
    assert mini.content_hash == "c4431556597fd224d9d50b5e7bcffe1c8dca120b043331221f89cd8b8a44c95a"


def test_embedded_splits_are_class_balanced(mini):
    per_class = {
        name: split.labels.bincount().unique().tolist() for name, split in mini.splits.items()
    }
    assert per_class == {"train": [500], "val": [100], "test": [200]}
    assert mini.image_shape == (1, 28, 28)
    assert (mini.image_shape, mini.num_classes) == ((1, 28, 28), 10)
    assert mini.classes[9] == "Ankle boot"
    assert "MIT" in mini.licence


@pytest.mark.parametrize("name", ["digits", "fashion_mnist_mini"])
def test_no_image_is_in_two_splits_more_often_than_in_the_source(name):
    dataset = load(name)
    images = torch.cat([split.fetch(torch.arange(len(split))) for split in dataset.splits.values()])
    distinct = len(images.flatten(1).unique(dim=0))
    assert len(images) - distinct <= 2


def test_two_loads_give_the_same_bits(mini):
    again = load("fashion_mnist_mini")
    for name, split in mini.splits.items():
        everything = torch.arange(len(split))
        assert torch.equal(split.fetch(everything), again.splits[name].fetch(everything))
    assert again.content_hash == mini.content_hash


def test_normalised_training_images_have_mean_0_and_deviation_1(mini):
    train = mini.splits["train"]
    images = normalise(train.fetch(torch.arange(len(train))), mini)
    assert images.dtype == torch.float32
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_digits_use_the_full_range_of_a_byte():
    digits = load("digits")
    train = digits.splits["train"]
    levels = train.fetch(torch.arange(len(train))).unique()
    assert len(levels) == 17
    assert levels[[0, -1]].tolist() == [0, 255]
    assert digits.image_shape == (1, 8, 8)
    assert sum(map(len, digits.splits.values())) == 1797


def test_batches_go_through_a_split_in_order(mini):
    val = mini.splits["val"]
    pairs = list(val.batches(300))
    assert [len(labels) for _, labels in pairs] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([labels for _, labels in pairs]), val.labels)
    assert torch.equal(pairs[3][0], val.fetch(torch.arange(900, 1000)))
