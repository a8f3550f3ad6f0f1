import random

import numpy as np
import pytest
import torch

from bench.config.schema import AugmentConfig
from bench.data.batches import Augment
from routers.errors import RequestError


def augment(crop_padding=0, flip=False, randaugment=None):
    return Augment(AugmentConfig(crop_padding=crop_padding, flip=flip, randaugment=randaugment))


def some_images(count, channels=3, size=12):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


EVERYTHING = {"crop_padding": 2, "flip": True, "randaugment": "rand-m9-n2-mstd0.5"}


@pytest.mark.parametrize(
    "options", [{"crop_padding": 2}, {"flip": True}, {"randaugment": "rand-m9-n2"}, EVERYTHING]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_augmented_the_same_way_in_every_batch(options, channels):
    images, indices = some_images(16, channels), torch.arange(100, 116)
    epochs = torch.arange(16) // 5
    change = augment(**options)
    together = change(images, 7, epochs, indices)
    assert together.shape == images.shape
    assert together.dtype == torch.uint8
    assert not torch.equal(together, images)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    for part in order.split(3):
        alone = change(images[part], 7, epochs[part], indices[part])
        assert torch.equal(alone, together[part])


@pytest.mark.parametrize(
    "options", [{"crop_padding": 2}, {"flip": True}, {"randaugment": "rand-m9"}]
)
def test_seed_epoch_and_index_each_change_the_augmentation(options):
    images = some_images(1).expand(32, -1, -1, -1)
    change, indices = augment(**options), torch.arange(32)
    first = change(images, 0, 0, indices)
    assert not torch.equal(first[0].expand_as(first), first)
    assert not torch.equal(first, change(images, 1, 0, indices))
    assert not torch.equal(first, change(images, 0, 1, indices))


def test_crops_are_all_the_windows_of_the_image_padded_with_black():
    image = some_images(1, size=5)
    padded = torch.nn.functional.pad(image, [1] * 4)[0]
    windows = [padded[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    cropped = augment(crop_padding=1)(image.expand(400, -1, -1, -1), 0, 0, torch.arange(400))
    counts = [sum(torch.equal(window, one) for one in cropped) for window in windows]
    assert sum(counts) == 400
    assert min(counts) > 20  # 44 are expected


def test_half_of_the_images_are_mirrored():
    image = some_images(1)
    flipped = augment(flip=True)(image.expand(1000, -1, -1, -1), 0, 3, torch.arange(1000))
    kept = (flipped == image).flatten(1).all(1)
    mirrored = (flipped == image.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 440 < mirrored.sum() < 560


def test_no_augmentation_leaves_images_unchanged():
    images = some_images(4)
    assert augment()(images, 0, 0, torch.arange(4)) is images


def test_randaugment_does_not_touch_the_global_generators():
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    augment(randaugment="rand-m9")(some_images(3), 0, 0, torch.arange(3))
    assert (random.random(), np.random.rand()) == expected


@pytest.mark.parametrize("text", ["rand-q9", "augmix-m5", "rand-mnine", "rand-m1.5", "rand-tnone"])
def test_an_invalid_randaugment_is_refused_with_a_valid_example(text):
    with pytest.raises(RequestError, match=rf"{text}.*rand-m9-n2-mstd0\.5"):
        augment(randaugment=text)
