"""A user's own data set from one file: listed, shown, checked, trained on, reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from results import open_store
from results.frames import metrics_frame

pytestmark = pytest.mark.slow

PLUGIN = '''
"""Bars."""
import numpy as np

from bench.data import RawData, register_dataset


@register_dataset("bars_of_the_test", family="mine", source="a test")
def bars(folder):
    """Bars that lie or stand, in noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = generator.integers(0, 99, (200, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, 3:5] += 120
    images[labels == 1, :, 3:5] += 120
    return RawData.from_arrays(images, labels, ("lying", "standing"), test=range(160, 200))


@register_dataset("random_bars_of_the_test")
def random_bars(folder):
    """Other bars each time, of which some are in two splits."""
    made = bars(folder)
    noise = np.random.default_rng().integers(0, 99, (8, 8, 1), dtype=np.uint8)
    made.splits["train"].images[5] = noise
    made.splits["test"].images[7] = made.splits["train"].images[3]
    return made


@register_dataset("broken_bars_of_the_test")
def broken_bars(folder):
    """Bars that cannot be read."""
    return np.load(folder / "bars.npy")
'''
QUICK = [
    *("--preset", "smoke", "--set", "train.epochs=1", "--set", "data.name=bars_of_the_test"),
    *("--routers", "soft_moe,dense", "--seeds", "1", "--jobs", "0"),
]


def output_of(in_process, folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command with the user's file; return what it prints."""
    done = in_process(folder, *arguments, "--plugin", "bars.py", status=status)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains the user's file."""
    made = tmp_path_factory.mktemp("user")
    (made / "bars.py").write_text(PLUGIN)
    return made


def test_a_users_data_set_is_listed_and_has_a_card(folder: Path, in_process) -> None:
    listed = output_of(in_process, folder, "list", "datasets")
    assert "dataset: mine\n  bars_of_the_test\n    Bars that lie or stand, in noise." in listed
    assert "fashion_mnist_mini" in listed
    assert "soft_moe" not in listed
    card = output_of(in_process, folder, "show", "bars_of_the_test")
    assert "Bars that lie or stand, in noise." in card
    assert str(folder / "bars.py") in card


def test_a_users_data_set_is_checked(folder: Path, in_process) -> None:
    passed = output_of(in_process, folder, "check", "dataset:bars_of_the_test")
    assert "train 144, val 16, test 40" in passed
    assert "bars_of_the_test passes" in passed
    failed = output_of(in_process, folder, "check", "random_bars_of_the_test", status=1)
    assert "repeatable failed: random_bars_of_the_test: its content hash is" in failed
    message = " ".join(failed.split())
    assert "1 image of test is in train as well: image 7 of test is image" in message
    crashed = " ".join(
        output_of(in_process, folder, "check", "broken_bars_of_the_test", status=1).split()
    )
    assert 'bars.py:32: return np.load(folder / "bars.npy") — TypeError' in crashed


def test_a_users_data_set_is_trained_on_stored_and_reported(folder: Path, in_process) -> None:
    output = output_of(in_process, folder, "run", "accuracy", *QUICK)
    assert "2 trained, 2 measured" in output
    with open_store(folder / "runs" / "bench.db") as store:
        frame = metrics_frame(store, "smoke")
    top1 = frame[frame["metric"] == "top1"]
    assert top1["data"].tolist() == ["bars_of_the_test"] * 2
    page = (folder / "runs" / "reports" / "smoke" / "index.html").read_text()
    assert "bars_of_the_test" in page


def test_the_content_of_a_data_set_decides_whether_a_trial_is_reused(
    folder: Path, in_process
) -> None:
    output_of(in_process, folder, "run", "accuracy", *QUICK)
    assert "2 reused: " in output_of(in_process, folder, "plan", "accuracy", *QUICK)
    plugin = folder / "bars.py"
    plugin.write_text(PLUGIN.replace('"""Bars."""', '"""Bars, with other words."""'))
    assert "2 reused: " in output_of(in_process, folder, "plan", "accuracy", *QUICK)
    plugin.write_text(PLUGIN.replace("3:5] += 120", "3:6] += 120"))
    planned = output_of(in_process, folder, "plan", "accuracy", *QUICK)
    assert "2 to train: changed data: 'bars_of_the_test'" in planned
    assert "2 reused: " not in planned


def test_a_function_that_fails_is_reported_with_its_line(folder: Path, in_process) -> None:
    broken = ("--set", "data.name=broken_bars_of_the_test")
    message = output_of(in_process, folder, "run", *QUICK[:4], *broken, status=2)
    assert "error: data set 'broken_bars_of_the_test' cannot be read: " in message
    assert 'bars.py:32: return np.load(folder / "bars.npy") — TypeError' in message
    assert message.count("\n") == 1
