import hashlib
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CelebA

from bench.config.presets import load_preset
from bench.config.schema import DataConfig
from bench.data.registry import Datasets, load_with_shape
from bench.plan.plan import make_plan, make_request
from routers.errors import BenchError, RequestError

# The 40 attributes in their order; it matters here that ours are found among them by name.
NAMES = [f"Other_{number}" for number in range(40)]
NAMES[9], NAMES[20] = "Blond_Hair", "Male"
COUNTS = {0: 24, 1: 8, 2: 8}  # images by partition
BLOND_MALE = [(0, 0), (0, 1), (1, 0), (1, 1)]


def accept(monkeypatch, folder):
    """Make the checksums of these files the expected ones."""
    listed = []
    for identity, md5, name in CelebA.file_list:
        file = folder / name
        listed.append(
            (identity, hashlib.md5(file.read_bytes()).hexdigest() if file.exists() else md5, name)
        )
    monkeypatch.setattr(CelebA, "file_list", listed)


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """A small set in CelebA's format: a count, a line of names ending in a space, 1 and -1."""
    folder = tmp_path / "faces"
    (folder / "img_align_celeba").mkdir(parents=True)
    total = sum(COUNTS.values())
    partitions = np.repeat(list(COUNTS), list(COUNTS.values()))
    generator = np.random.default_rng(0)
    rows, places = [], []
    for number in range(total):
        file = f"{number + 1:06}.jpg"
        blond, male = BLOND_MALE[number % 4]
        values = generator.choice([-1, 1], 40)
        values[[9, 20]] = 2 * blond - 1, 2 * male - 1
        rows.append(f"{file} " + " ".join(f"{value:2}" for value in values))
        places.append(f"{file} {partitions[number]}")
        colour = np.full((218, 178, 3), (6 * number, 200 * blond, 200 * male), np.uint8)
        Image.fromarray(colour).save(folder / "img_align_celeba" / file, quality=95)
    header = " ".join(NAMES) + " "
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(total), header, *rows, ""]))
    (folder / "list_eval_partition.txt").write_text("\n".join(places))
    accept(monkeypatch, folder)
    return folder


@pytest.mark.parametrize("place", ["named", "above"])
def test_images_labels_attribute_and_splits_come_from_the_files(
    celeba, load, tmp_path, monkeypatch, place
):
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 0)
    if place == "above":
        celeba = celeba.rename(tmp_path / "celeba")
    root = celeba if place == "named" else tmp_path
    dataset = load("celeba", data_dir=str(root), image_size=16)
    assert dataset.classes == ("not blond", "blond")
    assert dataset.attributes == ("female", "male")
    assert dataset.image_shape == (3, 16, 16)
    start = 0
    for name, count in zip(("train", "val", "test"), COUNTS.values(), strict=True):
        split = dataset.splits[name]
        assert not isinstance(split.images, torch.Tensor)
        assert list(zip(split.labels.tolist(), split.attribute.tolist(), strict=True)) == (
            BLOND_MALE * (count // 4)
        )
        numbers = torch.arange(start, start + count)
        wanted = torch.stack([6 * numbers, 200 * split.labels, 200 * split.attribute], 1)
        centres = split.fetch(torch.arange(count))[:, :, 8, 8].long()
        assert (centres - wanted).abs().max() <= 4  # JPEG
        start += count


def test_celeba_is_found_by_the_environment_variable(celeba, load, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(celeba))
    assert len(load("celeba", image_size=8).splits["train"]) == COUNTS[0]


def test_without_a_size_the_images_are_not_square(celeba, load):
    with pytest.raises(RequestError, match=r"not square: 178 × 218 .*data\.image_size"):
        load("celeba", data_dir=str(celeba))


def test_a_trial_resizes_the_images_to_the_size_of_the_model(celeba):
    settings = {
        "data.name": "celeba",
        "data.data_dir": str(celeba),
        "model.options.img_size": 24,
        "model.options.patch_size": 8,
    }
    preset = load_preset("smoke")
    plan = make_plan(make_request(preset, settings=settings), Datasets())
    assert {trial.spec.data.image_size for trial in plan.trials} == {24}


def test_a_plan_can_be_made_without_the_data(tmp_path):
    request = DataConfig(name="celeba", data_dir=str(tmp_path), image_size=32)
    expected, nothing = load_with_shape(request, Datasets())
    assert (expected.image_shape, expected.num_classes) == ((3, 32, 32), 2)
    assert expected.num_samples == 162_770
    assert nothing is None


def test_labels_that_differ_from_the_published_ones_are_refused(celeba, load):
    file = celeba / "list_attr_celeba.txt"
    file.write_text(file.read_text().replace("-1", " 1", 1))
    with pytest.raises(BenchError, match=rf"{file} is damaged .* its MD5 is"):
        load("celeba", data_dir=str(celeba), image_size=8)


def test_missing_files_are_named(celeba, load):
    (celeba / "img_align_celeba/000007.jpg").unlink()
    with pytest.raises(RequestError, match=r"lacks 1 of the 40 images .*, such as 000007\.jpg"):
        load("celeba", data_dir=str(celeba), image_size=8)
    (celeba / "img_align_celeba").rename(celeba / "elsewhere")
    with pytest.raises(RequestError, match=r"lacks 40 .*; unpack img_align_celeba\.zip there"):
        load("celeba", data_dir=str(celeba), image_size=8)
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(RequestError, match=r"list_eval_partition\.txt is missing in"):
        load("celeba", data_dir=str(celeba), image_size=8)


def test_missing_files_can_be_downloaded(celeba, load, tmp_path, monkeypatch):
    arrive = lambda *_, **__: celeba.rename(tmp_path / "celeba") and None  # noqa: E731
    monkeypatch.setattr(CelebA, "__init__", arrive)
    dataset = load("celeba", data_dir=str(tmp_path), image_size=8)
    assert len(dataset.splits["test"]) == COUNTS[2]


@pytest.mark.parametrize(
    "error", [RuntimeError("gdown is required"), zipfile.BadZipFile("gdown is at its quota")]
)
def test_a_failed_download_says_which_file_to_put_where(load, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(CelebA, "__init__", fail)
    message = (
        r"CelebA is .* cannot be downloaded \(gdown is .*\); put list_attr_celeba\.txt, "
        rf"list_eval_partition\.txt, img_align_celeba/ into {tmp_path}/celeba"
    )
    with pytest.raises(BenchError, match=message):
        load("celeba", data_dir=str(tmp_path), image_size=8)
