import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST

from bench.data.torchvision_sets import DEBIAN_FASHION_MNIST
from routers.errors import BenchError, RequestError

DEBIAN = [folder for folder in [DEBIAN_FASHION_MNIST] if folder.is_dir()]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Four small files in MNIST's format, whose checksums are made the expected ones."""
    generator = np.random.default_rng(0)
    arrays = {}
    for stem, count in (("train", 200), ("t10k", 50)):
        arrays[f"{stem}-images-idx3"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{stem}-labels-idx1"] = np.arange(count, dtype=np.uint8) % 10
    folder = tmp_path / "digits"
    for name, array in arrays.items():
        write_idx(folder / f"{name}-ubyte.gz", array)
    resources = [(name, md5(folder / name)) for name, _ in MNIST.resources]
    monkeypatch.setattr(MNIST, "resources", resources)
    return folder, arrays


def test_mnist_is_read_from_the_given_folder(digits, load):
    folder, arrays = digits
    dataset = load("mnist", data_dir=str(folder))
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 180,
        "val": 20,
        "test": 50,
    }
    test = dataset.splits["test"]
    everything = test.fetch(torch.arange(50))[:, 0]
    assert torch.equal(everything, torch.from_numpy(arrays["t10k-images-idx3"]))
    assert test.labels.tolist() == arrays["t10k-labels-idx1"].tolist()


@pytest.mark.parametrize("place", ["raw", "MNIST/raw"])
@pytest.mark.parametrize("how", ["named", "environment", "cache"])
def test_mnist_is_found_where_torchvision_puts_it(digits, load, tmp_path, monkeypatch, place, how):
    root = tmp_path / ("cache/moe-router-bench/data" if how == "cache" else "root")
    (root / place).parent.mkdir(parents=True)
    digits[0].rename(root / place)
    if how == "environment":
        monkeypatch.setenv("BENCH_DATA", str(root))
    assert len(load("mnist", data_dir=str(root) if how == "named" else None).splits["test"]) == 50


def test_a_missing_file_is_named(digits, load):
    folder, _ = digits
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(RequestError, match=rf"t10k-labels-idx1-ubyte\.gz is missing in {folder}"):
        load("mnist", data_dir=str(folder))


def test_an_interrupted_download_is_repeated(digits, load, tmp_path, monkeypatch):
    downloaded = tmp_path / "MNIST" / "raw"
    downloaded.parent.mkdir()
    digits[0].rename(downloaded)
    late = downloaded / "t10k-labels-idx1-ubyte.gz"
    content = late.read_bytes()
    late.unlink()
    monkeypatch.setattr(MNIST, "__init__", lambda *_, **__: late.write_bytes(content) and None)
    assert len(load("mnist", data_dir=str(tmp_path)).splits["test"]) == 50


def test_a_wrong_checksum_is_named(digits, load):
    folder, arrays = digits
    write_idx(folder / "train-labels-idx1-ubyte.gz", 1 - arrays["train-labels-idx1"])
    with pytest.raises(BenchError, match=rf"{folder}/train-labels.* its MD5 is .*, not "):
        load("mnist", data_dir=str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "gzipped IDX file"),
        (gzip.compress(b"\0\0\x0d\1\0\0\0\1\0\0\0\0"), "not an IDX file of unsigned bytes"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5abc"), r"holds 3 bytes .* not those of \(5,\)"),
    ],
    ids=["not gzipped", "of floats", "too short"],
)
def test_a_file_of_another_format_is_refused(digits, load, monkeypatch, content, message):
    folder, _ = digits
    victim = folder / "train-images-idx3-ubyte.gz"
    victim.write_bytes(content)
    monkeypatch.setattr(MNIST, "resources", [(n, md5(folder / n)) for n, _ in MNIST.resources])
    with pytest.raises(BenchError, match=message):
        load("mnist", data_dir=str(folder))


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("mnist", "train-images-idx3-ubyte.gz", "MNIST/raw"),
        ("cifar10", "cifar-10-python.tar.gz", ""),
        ("cifar100", "cifar-100-python.tar.gz", ""),
    ],
)
def test_a_failed_download_says_which_file_to_put_where(load, tmp_path, name, file, folder):
    message = rf"cannot be downloaded \(.*no network here.*put {file}.* into {tmp_path / folder}"
    with pytest.raises(BenchError, match=message):
        load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize("_", DEBIAN)
def test_debians_fashion_mnist_is_found(load, _):
    dataset = load("fashion_mnist")
    counts = {name: split.labels.bincount().tolist() for name, split in dataset.splits.items()}
    assert counts == {"train": [5400] * 10, "val": [600] * 10, "test": [1000] * 10}
    assert dataset.classes[0] == "T-shirt/top"
    assert dataset.mean.item() == pytest.approx(0.286, abs=5e-4)


@pytest.fixture(params=[("cifar10", CIFAR10, "labels"), ("cifar100", CIFAR100, "fine_labels")])
def cifar(request, tmp_path, monkeypatch):
    """A small set in CIFAR's format, whose checksums are made the expected ones."""
    name, source, key = request.param
    folder = tmp_path / source.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    written = {}
    for attribute in ("train_list", "test_list"):
        for file, _ in getattr(source, attribute):
            written[file] = generator.integers(0, 256, (200, 3072), dtype=np.uint8)
            batch = {"data": written[file], key: (np.arange(200) % 100 % 10).tolist()}
            (folder / file).write_bytes(pickle.dumps(batch))
        checked = [(file, md5(folder / file)) for file, _ in getattr(source, attribute)]
        monkeypatch.setattr(source, attribute, checked)
    meta = {source.meta["key"]: [f"class {label}" for label in range(10)]}
    (folder / source.meta["filename"]).write_bytes(pickle.dumps(meta))
    checksum = md5(folder / source.meta["filename"])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": checksum})
    return name, folder, written


@pytest.mark.parametrize("inside", [False, True])
def test_cifar_is_read_from_its_folder_or_the_one_above(cifar, load, inside):
    name, folder, written = cifar
    dataset = load(name, data_dir=str(folder if inside else folder.parent))
    assert dataset.image_shape == (3, 32, 32)
    assert dataset.classes[3] == "class 3"
    test = dataset.splits["test"]
    (pixels,) = [array for file, array in written.items() if file.startswith("test")]
    assert torch.equal(test.fetch(torch.arange(200)).flatten(1), torch.from_numpy(pixels))
    assert len(dataset.splits["train"]) + len(dataset.splits["val"]) == 200 * (len(written) - 1)


def test_a_damaged_cifar_file_is_named_and_never_unpickled(cifar, load, monkeypatch):
    name, folder, written = cifar
    victim = folder / next(iter(written))
    victim.write_bytes(victim.read_bytes()[:-1])
    monkeypatch.setattr("pickle.load", None)
    with pytest.raises(BenchError, match=rf"{victim} is damaged"):
        load(name, data_dir=str(folder))


def test_a_missing_cifar_file_is_named(cifar, load):
    name, folder, written = cifar
    (folder / list(written)[-1]).unlink()
    with pytest.raises(RequestError, match=rf"{list(written)[-1]} is missing in {folder}"):
        load(name, data_dir=str(folder))
