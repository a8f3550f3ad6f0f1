import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from routers.errors import BenchError, RequestError

TWO = {"cat": 20, "dog": 30}


def everything(split):
    return split.fetch(torch.arange(len(split)))


def test_pixels_labels_and_splits_come_from_the_files(draw_images, load):
    root = draw_images({"train": TWO, "val": {"cat": 2, "dog": 3}, "test": {"cat": 4, "dog": 1}})
    dataset = load(f"imagefolder:{root}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_shape == (1, 9, 9)
    for name, split in dataset.splits.items():
        files = sorted((root / name).rglob("*.png"))
        pixels = np.stack([np.asarray(Image.open(file)) for file in files])
        assert torch.equal(everything(split)[:, 0], torch.from_numpy(pixels))
        names = [dataset.classes[label] for label in split.labels]
        assert names == [file.parent.name for file in files]


def test_a_class_folder_that_is_not_utf_8_gets_a_name_that_can_be_written(draw_images, load):
    odd = os.fsdecode(b"caf\xe9")
    dataset = load(f"imagefolder:{draw_images({'train': {odd: 20, 'dog': 20}})}")
    assert dataset.classes == (r"caf\xe9", "dog")
    assert len(dataset.splits["train"]) > 20


def test_statistics_are_those_of_the_training_pixels(draw_images, load):
    root = draw_images({"train": TWO, "val": {"cat": 1, "dog": 1}}, colour=True)
    dataset = load(f"imagefolder:{root}")
    pixels = everything(dataset.splits["train"]).double() / 255
    torch.testing.assert_close(dataset.mean.double(), pixels.mean((0, 2, 3)), rtol=0, atol=1e-6)
    deviation = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(dataset.std.double(), deviation, rtol=0, atol=1e-6)


@pytest.mark.parametrize("present", [(), ("val",), ("test",), ("val", "test")])
def test_missing_splits_are_taken_from_train_by_class_and_reproducibly(draw_images, load, present):
    root = draw_images({"train": TWO} | {split: {"cat": 2, "dog": 3} for split in present})
    dataset = load(f"imagefolder:{root}")
    counts = {name: split.labels.bincount().tolist() for name, split in dataset.splits.items()}
    for split in {"val", "test"}:
        assert counts[split] == [2, 3]
    held = 2 - len(present)
    assert counts["train"] == [20 - 2 * held, 30 - 3 * held]
    images = torch.cat([everything(split) for split in dataset.splits.values()])
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert load(f"imagefolder:{root}").content_hash == dataset.content_hash


def test_pictures_are_converted_to_the_requested_size_and_channels(draw_images, load):
    root = draw_images({"train": {"cat": 4}}, size=(31, 20), colour=True)
    draw_images({"train": {"dog": 4}}, size=(8, 8))
    colour = load(f"imagefolder:{root}", image_size=10)
    assert colour.image_shape == (3, 10, 10)
    assert load(f"imagefolder:{root}", image_size=10, channels=1).image_shape == (1, 10, 10)
    with Image.open(root / "train/dog/000.png") as grey:
        grey.resize((10, 10), Image.Resampling.BICUBIC).convert("RGB").save(root / "expected.png")
    expected = torch.from_numpy(np.array(Image.open(root / "expected.png"))).permute(2, 0, 1)
    images = torch.cat([everything(split) for split in colour.splits.values()])
    assert (images == expected).flatten(1).all(1).any()


def test_wide_pictures_are_cropped_to_their_centre(tmp_path, load):
    for name, value in (("left", 50), ("right", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        picture = np.zeros((6, 30), np.uint8)
        picture[:, 12:18] = value
        for number in range(3):
            Image.fromarray(picture).save(tmp_path / "train" / name / f"{number}.png")
    train = load(f"imagefolder:{tmp_path}", image_size=6).splits["train"]
    assert everything(train).flatten(1).unique(dim=1).squeeze(1).tolist() == [50, 200]


def test_sixteen_bit_grey_pictures_keep_their_upper_byte(tmp_path, load):
    for name, value in (("a", 0x1234), ("b", 0xFEDC)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((4, 4), value, np.uint16)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.png")
    train = load(f"imagefolder:{tmp_path}").splits["train"]
    assert everything(train).unique().tolist() == [0x12, 0xFE]


@pytest.mark.parametrize("change", ["pixel", "class", "split"])
def test_the_content_hash_changes_with_pixels_classes_and_splits(draw_images, load, change):
    root = draw_images(dict.fromkeys(("train", "val", "test"), TWO))
    before = load(f"imagefolder:{root}").content_hash
    first = root / "train/cat/000.png"
    if change == "pixel":
        pixels = np.array(Image.open(first))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(first)
    elif change == "class":
        first.rename(root / "train/dog/zzz.png")
    else:
        first.rename(root / "val/cat/zzz.png")
    assert load(f"imagefolder:{root}").content_hash != before


def test_the_content_hash_does_not_depend_on_the_location_of_the_folder(
    draw_images, load, tmp_path
):
    root = draw_images({"train": TWO})
    before = load(f"imagefolder:{root}").content_hash
    root.rename(tmp_path / "elsewhere")
    assert load("imagefolder:elsewhere", data_dir=str(tmp_path)).content_hash == before


class SameTimes:
    """A stand-in for `os` in the statistics, under which all files have one size and one time."""

    path, fsencode, getpid = os.path, os.fsencode, os.getpid

    @staticmethod
    def stat(_):
        return os.stat(__file__)


class TestLazily:
    """Images that do not fit into memory."""

    @pytest.fixture
    def root(self, draw_images, monkeypatch):
        monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 0)
        return draw_images({"train": {"cat": 40, "dog": 41}}, colour=True)

    def test_lazy_and_in_memory_images_are_the_same_data_set(self, root, load, monkeypatch):
        lazy = load(f"imagefolder:{root}")
        monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 2**30)
        eager = load(f"imagefolder:{root}")
        assert lazy.content_hash == eager.content_hash
        assert torch.equal(lazy.mean, eager.mean)
        for name, split in lazy.splits.items():
            assert not isinstance(split.images, torch.Tensor)
            assert tuple(split.images.shape) == tuple(eager.splits[name].images.shape)
            indices = torch.tensor([2, 0, 2, 1])
            assert torch.equal(split.fetch(indices), eager.splits[name].fetch(indices))

    def test_unchanged_files_are_read_for_statistics_only_once(self, root, load, monkeypatch):
        before = load(f"imagefolder:{root}")
        monkeypatch.setattr("bench.data.assembly._read_all", None)
        assert load(f"imagefolder:{root}").content_hash == before.content_hash

    def test_a_changed_file_is_noticed(self, root, load):
        before = load(f"imagefolder:{root}").content_hash
        pixels = np.array(Image.open(root / "train/cat/000.png"))
        Image.fromarray(255 - pixels).save(root / "train/cat/000.png")
        assert load(f"imagefolder:{root}").content_hash != before

    def test_the_same_relative_path_in_another_folder_is_another_data_set(
        self, root, load, tmp_path, monkeypatch
    ):
        """Even if each file has the same size and times as its counterpart."""
        monkeypatch.setattr("bench.data.assembly.HASHED_BYTES", 0)
        monkeypatch.setattr("bench.data.assembly.os", SameTimes)
        monkeypatch.chdir(root)
        before = load("imagefolder:.").content_hash
        other = shutil.copytree(root, tmp_path / "other")
        for number in range(40):
            pixels = np.array(Image.open(other / f"train/cat/{number:03}.png"))
            Image.fromarray(255 - pixels).save(other / f"train/cat/{number:03}.png")
        monkeypatch.chdir(other)
        assert load("imagefolder:.").content_hash != before

    def test_changed_content_of_equal_size_and_times_is_noticed(self, root, load, monkeypatch):
        monkeypatch.setattr("bench.data.assembly.os", SameTimes)
        before = load(f"imagefolder:{root}").content_hash
        pixels = np.array(Image.open(root / "train/cat/000.png"))
        Image.fromarray(255 - pixels).save(root / "train/cat/000.png")
        assert load(f"imagefolder:{root}").content_hash != before

    def test_a_file_that_disappeared_is_named(self, root, load):
        train = load(f"imagefolder:{root}").splits["train"]
        gone = Path(train.images.pictures.keys[3])
        gone.unlink()
        with pytest.raises(BenchError, match=str(gone)):
            train.fetch(torch.tensor([3]))


class TestMistakes:
    """Each mistake is one message, before anything is trained."""

    def test_no_folder(self, load, tmp_path):
        with pytest.raises(RequestError, match=r"there is no folder .*nowhere"):
            load(f"imagefolder:{tmp_path / 'nowhere'}")

    def test_no_training_folder(self, load, draw_images):
        root = draw_images({"training": TWO, "val": TWO})
        with pytest.raises(RequestError, match=r"no folder 'train' .*; available: training, val"):
            load(f"imagefolder:{root}")

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_an_empty_class(self, load, draw_images, split):
        root = draw_images({"train": TWO, "val": TWO})
        for file in (root / split / "dog").iterdir():
            file.rename(file.with_suffix(".txt"))
        with pytest.raises(RequestError, match=rf"{split}/dog holds no image"):
            load(f"imagefolder:{root}")

    def test_a_class_that_a_split_lacks(self, load, draw_images):
        root = draw_images({"train": TWO, "val": {"cat": 3}})
        with pytest.raises(RequestError, match="no image in val of class 'dog'"):
            load(f"imagefolder:{root}")

    def test_a_class_that_train_lacks(self, load, draw_images):
        root = draw_images({"train": TWO, "test": TWO | {"cow": 1}})
        with pytest.raises(RequestError, match=r"test/cow has no counterpart in train"):
            load(f"imagefolder:{root}")

    def test_a_single_class(self, load, draw_images):
        with pytest.raises(RequestError, match="has too few class folders, 1"):
            load(f"imagefolder:{draw_images({'train': {'cat': 4}})}")

    def test_a_class_too_small_to_split(self, load, draw_images):
        with pytest.raises(RequestError, match="class 'dog' has too few training images, 1"):
            load(f"imagefolder:{draw_images({'train': {'cat': 5, 'dog': 1}})}")

    def test_unequal_sizes(self, load, draw_images):
        root = draw_images({"train": {"cat": 5}}, size=(9, 9))
        draw_images({"train": {"dog": 5}}, size=(8, 9))
        message = r"unequal size: .*8 × 9 \(.*dog/.*\.png\).*data\.image_size"
        with pytest.raises(RequestError, match=message):
            load(f"imagefolder:{root}")

    def test_pictures_that_are_not_square(self, load, draw_images):
        root = draw_images({"train": TWO}, size=(8, 9))
        with pytest.raises(RequestError, match=r"not square: 8 × 9 .*data\.image_size"):
            load(f"imagefolder:{root}")

    @pytest.mark.parametrize("limit", [0, 2**30])
    @pytest.mark.parametrize("damage", ["text", "cut"])
    def test_an_unreadable_image(self, load, draw_images, monkeypatch, damage, limit):
        monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", limit)
        root = draw_images({"train": TWO}, size=(40, 40), suffix="jpg")
        victim = root / "train/dog/004.jpg"
        content = b"no image" if damage == "text" else victim.read_bytes()[:600]
        victim.write_bytes(content)
        with pytest.raises(BenchError, match=rf"{victim} cannot be read as an image"):
            load(f"imagefolder:{root}")

    def test_two_channels(self, load, draw_images):
        with pytest.raises(RequestError, match=r"data\.channels is 2"):
            load(f"imagefolder:{draw_images({'train': TWO})}", channels=2)

    @pytest.mark.parametrize(
        ("name", "answer"), [("cifar11", "'cifar10'"), ("imagefoldr:x", "'imagefolder:PATH'")]
    )
    def test_an_unknown_name(self, load, name, answer):
        with pytest.raises(RequestError, match=f"no dataset is named '{name}'; did you.*{answer}"):
            load(name)


def rotated(path: Path, orientation: int) -> np.ndarray:
    """Turn a PNG's pixels, say so in its EXIF data, and return the intended pixels."""
    picture = Image.open(path)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}
    return np.asarray(picture.transpose(turns[orientation]))


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("name", ["imagefolder:{}", "timm:folder"])
def test_pictures_are_oriented_by_their_exif_data(draw_images, load, name, orientation):
    root = draw_images({split: {"cat": 2, "dog": 2} for split in ("train", "val", "test")})
    upright = rotated(root / "val/cat/000.png", orientation)
    dataset = load(name.format(root), data_dir=str(root) if "timm" in name else None)
    assert everything(dataset.splits["val"])[0, 0].tolist() == upright.tolist()


def test_floating_point_pictures_are_named_and_refused(draw_images, load):
    root = draw_images({"train": TWO})
    pixels = np.linspace(0, 1, 81, dtype=np.float32).reshape(9, 9)
    Image.fromarray(pixels).save(root / "train/cat/x.tif")
    message = r"cat/x\.tif cannot be read as an image: its pixels are floating-point numbers"
    with pytest.raises(BenchError, match=message):
        load(f"imagefolder:{root}")


def test_pictures_of_more_than_sixteen_bits_are_named_and_refused(draw_images, load):
    root = draw_images({"train": TWO})
    Image.fromarray(np.full((9, 9), 70_000, np.int32)).save(root / "train/cat/x.tif")
    with pytest.raises(BenchError, match=r"cat/x\.tif .*: its pixels have more than 16 bits"):
        load(f"imagefolder:{root}")


@pytest.mark.parametrize("limit", [0, 2**30])
def test_all_damaged_files_are_counted_and_the_first_ten_named(
    draw_images, load, monkeypatch, limit
):
    """This holds for any damage, in any split."""
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", limit)
    root = draw_images(dict.fromkeys(("train", "val", "test"), TWO), (40, 40), suffix="jpg")
    files = [*sorted((root / "train/cat").iterdir())[:8], *sorted((root / "val/cat").iterdir())[:4]]
    for number, file in enumerate(files):
        file.write_bytes(b"no image" if number % 2 else file.read_bytes()[:600])
    with pytest.raises(BenchError) as caught:
        load(f"imagefolder:{root}")
    lines = str(caught.value).splitlines()
    named = [line.partition(" cannot be read as an image: ")[0] for line in lines[:10]]
    assert lines[10:] == ["and 2 more"]
    assert set(named) < set(map(str, files))
    assert sum("/val/" in line for line in named) == 2


class TestLinks:
    """Each real file counts once, and the treatment of links is reported."""

    @pytest.fixture
    def root(self, draw_images):
        return draw_images({"train": TWO, "val": {"cat": 2, "dog": 3}, "all": {"x": 2}})

    def sizes(self, dataset):
        return {name: split.labels.bincount().tolist() for name, split in dataset.splits.items()}

    def test_links_in_circles_change_nothing(self, root, load, capsys):
        before = load(f"imagefolder:{root}")
        for link, target in (("cat/loop", "../cat"), ("dog/up", ".."), ("dog/top", "../..")):
            (root / "train" / link).symlink_to(target)
        capsys.readouterr()
        after = load(f"imagefolder:{root}")
        assert self.sizes(after) == self.sizes(before)
        assert after.content_hash == before.content_hash
        warned = capsys.readouterr().err
        assert "lead in a circle and are not followed: " in warned
        for link in ("cat/loop", "dog/up", "dog/top"):
            assert f"{root}/train/{link} → " in warned

    def test_two_folders_that_link_to_each_other_are_read_once(self, root, load, capsys):
        before = self.sizes(load(f"imagefolder:{root}"))
        (root / "train/cat/dogs").symlink_to("../dog")
        (root / "train/dog/cats").symlink_to("../cat")
        (root / "val/cat/again.png").symlink_to("../../train/cat/000.png")
        assert self.sizes(load(f"imagefolder:{root}")) == before
        warned = capsys.readouterr().err
        assert "lead to images that are read elsewhere and are not read again: " in warned
        assert "val/cat/again.png" in warned

    def test_links_out_of_the_folder_are_followed_and_reported(self, root, load, capsys, tmp_path):
        before = self.sizes(load(f"imagefolder:{root}"))
        outside = tmp_path / "outside"
        (root / "all/x").rename(outside)
        (root / "train/cat/more").symlink_to(outside)
        (root / "train/dog/one.png").symlink_to(outside / "000.png")
        (outside / "back").symlink_to(root / "train")
        (outside / "round").symlink_to(outside)
        after = self.sizes(load(f"imagefolder:{root}"))
        assert sum(after["train"] + after["test"]) == sum(before["train"] + before["test"]) + 2
        warned = capsys.readouterr().err
        assert f"lead out of {root}, and their images are read: {root}/train/cat/more → " in warned

    def test_a_split_of_links_to_files_beside_it_is_read(self, root, load):
        for split, number in (("train", 0), ("val", 1)):
            (root / split / "dog" / "linked.png").symlink_to(root / f"all/x/00{number}.png")
        assert self.sizes(load(f"imagefolder:{root}"))["val"] == [2, 4]

    def test_a_split_that_is_a_link_to_another_is_refused(self, root, load):
        (root / "test").symlink_to("val")
        with pytest.raises(RequestError, match="test/cat holds no image"):
            load(f"imagefolder:{root}")

    def test_a_class_may_be_a_link(self, root, load, tmp_path):
        before = load(f"imagefolder:{root}").content_hash
        (root / "train/cat").rename(tmp_path / "cats")
        (root / "train/cat").symlink_to(tmp_path / "cats")
        assert load(f"imagefolder:{root}").content_hash == before

    def test_timm_is_kept_out_of_circular_links_and_reads_each_file_once(self, root, load):
        (root / "val/cat/again.png").symlink_to("../../train/cat/000.png")
        assert self.sizes(load("timm:folder", data_dir=str(root)))["val"] == [2, 3]
        (root / "train/cat/loop").symlink_to("../cat")
        with pytest.raises(RequestError, match=rf"circle: {root}/train/cat/loop → .*imagefolder"):
            load("timm:folder", data_dir=str(root))


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_validation_split_may_have_other_usual_names(draw_images, load, name, capsys):
    root = draw_images({"train": TWO, "val": {"cat": 2, "dog": 3}})
    before = load(f"imagefolder:{root}")
    (root / "val").rename(root / name)
    assert load(f"imagefolder:{root}").content_hash == before.content_hash
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["imagefolder:{}", "timm:folder"])
def test_two_folders_for_one_split_are_refused(draw_images, load, name):
    root = draw_images(dict.fromkeys(("train", "val", "valid"), TWO))
    with pytest.raises(RequestError, match="has val and valid, and each would be val; keep one"):
        load(name.format(root), data_dir=str(root) if "timm" in name else None)


def test_a_folder_that_is_not_read_is_reported(draw_images, load, capsys):
    root = draw_images(dict.fromkeys(("train", "dev"), TWO))
    load(f"imagefolder:{root}")
    assert "folders that are not read: dev (read are train)" in capsys.readouterr().err
