"""A protected attribute stays with its image from the source to the split."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.assembly import assemble
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from routers.errors import RequestError

GROUPS = np.repeat([0, 1, 2, 3], [60, 20, 20, 40])  # twice the class and the attribute


def pixels(groups):
    """Return images (n, 4, 4) whose every pixel is the group."""
    return np.broadcast_to(groups[:, None, None], (len(groups), 4, 4)).astype(np.uint8)


def raw(groups=GROUPS, images=None, attributes=("old", "new")):
    split = RawSplit(pixels(groups) if images is None else images, groups // 2, groups % 2)
    return RawData(("cat", "dog"), {"train": split}, "none", attributes=attributes)


def test_held_out_splits_keep_the_share_of_every_class_and_attribute():
    dataset = assemble("pets", raw())
    assert dataset.attributes == ("old", "new")
    counts = {
        name: (2 * split.labels + split.attribute).bincount().tolist()
        for name, split in dataset.splits.items()
    }
    assert counts == {"train": [49, 16, 16, 32], "val": [5, 2, 2, 4], "test": [6, 2, 2, 4]}


def test_attributes_are_in_the_order_of_the_images_in_batches():
    for split in assemble("pets", raw(np.tile(GROUPS, 2)[::-1])).splits.values():
        values = split.attribute.split(7)
        for (images, labels), attribute in zip(split.batches(7), values, strict=True):
            assert torch.equal(images[:, 0, 0, 0].long(), 2 * labels + attribute)


@pytest.mark.parametrize("where", ["memory", "files"])
def test_the_attribute_is_part_of_the_content_hash(tmp_path, monkeypatch, where):
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 0 if where == "files" else 2**30)
    images = pixels(GROUPS)
    if where == "files":
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{number:03}.png")
        images = Pictures(sorted(map(str, tmp_path.glob("*.png"))))
    split = RawSplit(images, GROUPS // 2, GROUPS % 2)
    swapped = RawSplit(images, GROUPS // 2, 1 - GROUPS % 2)
    without = RawSplit(images, GROUPS // 2)

    def content_hash(part):
        splits = dict.fromkeys(("train", "val", "test"), part)
        names = () if part.attribute is None else ("old", "new")
        return assemble("pets", RawData(("a", "b"), splits, "", attributes=names)).content_hash

    hashes = [content_hash(part) for part in (split, swapped, without)]
    assert len(set(hashes)) == 3
    assert content_hash(split) == hashes[0]


def test_a_data_set_without_an_attribute_has_none(load):
    digits = load("digits")
    assert digits.attributes == ()
    assert all(split.attribute is None for split in digits.splits.values())


def test_a_class_that_lacks_a_value_of_the_attribute_is_refused():
    with pytest.raises(RequestError, match="class 'dog, old' has too few training images, 0"):
        assemble("pets", raw(GROUPS[GROUPS != 2]))
    source = raw()
    splits = dict.fromkeys(("train", "val"), source.splits["train"])
    splits["test"] = source.splits["train"].select(np.flatnonzero(GROUPS != 1))
    with pytest.raises(RequestError, match="no image in test of class 'cat, new'"):
        assemble("pets", RawData(source.classes, splits, "", attributes=source.attributes))
