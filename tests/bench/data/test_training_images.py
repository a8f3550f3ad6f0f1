import multiprocessing
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.config.schema import AugmentConfig
from bench.data.batches import Augment, TrainingBatches
from bench.data.order import training_indices
from routers.errors import BenchError

PLAIN = AugmentConfig(crop_padding=2, flip=True)
SLOW = AugmentConfig(flip=True, randaugment="rand-m9-n2")

# From Python 3.12 on, forking warns if there are threads, and torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def pictures(draw_images):
    return draw_images({"train": {"cat": 20, "dog": 20}}, colour=True)


def batches_of(dataset, augment, seed, batch_size):
    train = SimpleNamespace(batch_size=batch_size, ranks=1)
    data = SimpleNamespace(augment=augment)
    spec = SimpleNamespace(seed=seed, train=train, data=data)
    return TrainingBatches(spec, dataset, torch.device("cpu"))


def expected(dataset, augment, step):
    """Return what the definitions give for seed 3 and batches of 7."""
    train = dataset.splits["train"]
    indices, epochs = training_indices(len(train), 3, step, 7)
    return Augment(augment)(train.fetch(indices), 3, epochs, indices), train.labels[indices]


@pytest.mark.parametrize("augment", [PLAIN, SLOW])
@pytest.mark.parametrize("limit", [0, 2**30])
def test_the_batch_of_a_step_follows_from_order_and_augmentation(
    pictures, load, monkeypatch, augment, limit
):
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", limit)
    dataset = load(f"imagefolder:{pictures}")
    batches = batches_of(dataset, augment, seed=3, batch_size=7)
    for step in (0, 1, 2, 3, 9, 10):
        for actual, wanted in zip(
            batches.images(step), expected(dataset, augment, step), strict=True
        ):
            assert torch.equal(actual, wanted)
    batches.close()
    assert torch.equal(batches.images(11)[0], expected(dataset, augment, 11)[0])
    batches.close()
    assert not multiprocessing.active_children()


def test_images_in_memory_need_no_loading_process(pictures, load, monkeypatch):
    monkeypatch.setattr("bench.data.batches.DataLoader", None)
    batches = batches_of(load(f"imagefolder:{pictures}"), PLAIN, seed=0, batch_size=4)
    assert batches.images(0)[0].shape == (4, 3, 9, 9)


def test_a_file_that_disappears_is_one_message(pictures, load, monkeypatch):
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 0)
    dataset = load(f"imagefolder:{pictures}")
    train = dataset.splits["train"]
    (first,) = training_indices(len(train), 0, 0, 1)[0].tolist()
    gone = Path(train.images.pictures.keys[first])
    gone.unlink()
    with pytest.raises(BenchError) as caught:
        batches_of(dataset, PLAIN, seed=0, batch_size=1).images(0)
    assert str(caught.value).startswith(f"{gone} cannot be read")
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("source", ["files", "memory"])
def test_a_lazy_split_can_be_sent_to_another_process(pictures, load, monkeypatch, source):
    monkeypatch.setattr("bench.data.assembly.MEMORY_LIMIT", 0)
    name = f"imagefolder:{pictures}" if source == "files" else "digits"
    train = load(name, image_size=12).splits["train"]
    copy, indices = pickle.loads(pickle.dumps(train)), torch.arange(20)
    assert torch.equal(copy.fetch(indices), train.fetch(indices))
