import gc
import gzip
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IterableImageDataset

from routers.errors import RequestError

TWO = {"ant": 20, "bee": 30}


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation")])
def test_a_folder_read_by_timm_equals_one_read_by_imagefolder(draw_images, load, names):
    root = draw_images({names[0]: TWO, names[1]: {"ant": 2, "bee": 1}})
    dataset = load("timm:folder", data_dir=str(root))
    for old, new in zip(names, ("train", "val"), strict=True):
        (root / old).rename(root / new)
    expected = load(f"imagefolder:{root}")
    assert dataset.content_hash == expected.content_hash
    assert dataset.classes == ("ant", "bee")


def test_a_folder_without_splits_is_split(draw_images, load):
    root = draw_images({"": TWO})
    dataset = load("timm:", data_dir=str(root))
    counts = {name: split.labels.bincount().tolist() for name, split in dataset.splits.items()}
    assert counts == {"train": [16, 24], "val": [2, 3], "test": [2, 3]}


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # timm never closes the file
def test_a_tar_file_is_read(draw_images, load, tmp_path):
    root = draw_images({"": TWO})
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(root, ".")
    dataset = load("timm:", data_dir=str(tmp_path / "images.tar"))
    assert dataset.content_hash == load("timm:", data_dir=str(root)).content_hash
    gc.collect()


def test_torchvisions_sets_are_read(load, tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    images = {}
    for stem, count in (("train", 100), ("t10k", 30)):
        images[stem] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in ((f"{stem}-images-idx3", images[stem]), (f"{stem}-labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{kind}-ubyte").write_bytes(header + array.tobytes())
    dataset = load("timm:torch/kmnist", data_dir=str(tmp_path))
    test = dataset.splits["test"]
    assert torch.equal(test.fetch(torch.arange(30))[:, 0], torch.from_numpy(images["t10k"]))
    assert [len(dataset.splits[name]) for name in ("train", "val")] == [90, 10]
    assert dataset.classes[0] == "o"


class Stream:
    """A stand-in for timm's stream readers that does not need their libraries."""

    def __init__(self, count):
        generator = np.random.default_rng(count)
        self.pixels = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)

    def __iter__(self):
        for label, pixels in enumerate(self.pixels):
            yield Image.fromarray(pixels), label % 3


@pytest.fixture
def streams(monkeypatch):
    """Make timm open these for every name: a train and a validation split, but no test split."""
    readers = {"train": Stream(60), "validation": Stream(9)}

    def create(_, root, split):
        if split not in readers:
            raise ValueError(f"Unknown split {split!r}")
        return IterableImageDataset(root, reader=readers[split])

    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create)
    return readers


def test_a_stream_is_read_into_memory(streams, load):
    dataset = load("timm:wds/shards", data_dir="anywhere")
    assert [len(dataset.splits[name]) for name in ("train", "val", "test")] == [54, 9, 6]
    pixels = torch.from_numpy(streams["validation"].pixels).permute(0, 3, 1, 2)
    assert torch.equal(dataset.splits["val"].fetch(torch.arange(9)), pixels)
    assert dataset.classes == ("0", "1", "2")


@pytest.mark.usefixtures("streams")
def test_a_stream_that_does_not_fit_into_memory_is_refused(load, monkeypatch):
    monkeypatch.setattr("bench.data.timm_sets.STREAM_LIMIT", 1000)
    with pytest.raises(RequestError, match=r"wds/shards is a stream .* use imagefolder:PATH"):
        load("timm:wds/shards", data_dir="anywhere")


@pytest.mark.usefixtures("streams")
def test_labels_that_are_not_class_numbers_are_refused(load, monkeypatch):
    monkeypatch.setattr(Stream, "__iter__", lambda _: iter([(Image.new("L", (4, 4)), [0, 1])]))
    with pytest.raises(RequestError, match="does not label every image with one class number"):
        load("timm:wds/shards", data_dir="anywhere")


def test_a_class_that_train_lacks_is_refused(draw_images, load):
    root = draw_images({"train": TWO, "val": TWO | {"wasp": 2}})
    with pytest.raises(RequestError, match="class 'wasp' occurs in a split, but not in training"):
        load("timm:folder", data_dir=str(root))


def test_classes_are_matched_by_name(draw_images, load):
    root = draw_images({"train": TWO, "val": {"bee": 2}})
    with pytest.raises(RequestError, match="no image in val of class 'ant'"):
        load("timm:folder", data_dir=str(root))


@pytest.mark.parametrize(
    ("name", "data_dir", "message"),
    [
        ("timm:torch/cifarr", "x", "Unknown torchvision dataset cifarr"),
        ("timm:folder", None, r"timm:folder needs data\.data_dir"),
        ("timm:folder", "nowhere", "there is nothing at nowhere"),
    ],
)
def test_a_set_that_timm_cannot_open_is_reported(load, name, data_dir, message):
    with pytest.raises(RequestError, match=message):
        load(name, data_dir=data_dir)


def test_a_damaged_torchvision_file_is_reported(load, tmp_path):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte").write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(RequestError, match="timm cannot open 'torch/kmnist'"):
        load("timm:torch/kmnist", data_dir=str(tmp_path))
