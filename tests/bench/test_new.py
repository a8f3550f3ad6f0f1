"""`bench.py new` writes a router that works unchanged, and overwrites nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.check import check_router
from bench.cli.components import write_router
from routers import ROUTERS, RequestError, load_plugin

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_test_passes(tmp_path):
    """It runs as a user runs it: in their own folder, a fresh process, warnings as errors."""
    files = write_router("my_router", tmp_path)
    assert [file.name for file in files] == ["my_router.py", "test_my_router.py"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_generated_router_passes_check_and_has_a_card(tmp_path):
    file, _ = write_router("made_for_a_test", tmp_path)
    module = load_plugin(file)
    try:
        assert module.MadeForATest is ROUTERS.get("made_for_a_test").target
        report = check_router("made_for_a_test")
        assert report.passed, report.failures
        assert {"temperature=0.1", "temperature=10.0"} <= set(report.settings)
        card = ROUTERS.get("made_for_a_test")
        assert card.file == str(file)
        for section in ("Idea:", "Definition:", "Cost:", "Known limits:"):
            assert section in card.text
    finally:
        ROUTERS.discard("made_for_a_test")
        del sys.modules[module.__name__]


def test_the_generated_test_notices_a_mistake(tmp_path):
    """The test has teeth: a router that ignores its temperature does not pass."""
    router, test = write_router("my_router", tmp_path)
    text = router.read_text()
    assert "logits / self.temperature" in text
    router.write_text(text.replace("logits / self.temperature", "logits"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "by_hand", "-p", "no:cacheprovider", test],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.parametrize("taken", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(tmp_path, taken, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # as if the folder were the repository's
    (tmp_path / taken).write_text("precious")
    with pytest.raises(RequestError, match="exists already"):
        write_router("mine", tmp_path)
    assert (tmp_path / taken).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("My-Router", "my_router"),
        ("MyRouter", "my_router"),
        ("my router.py", "my_router"),
        ("2nd", "router_2nd"),
        ("lambda", "router_lambda"),
        ("", "router"),
        ("../escape", "escape"),
        ("a.b", "a_b"),
        ("größe", "gr_e"),
        ("Soft_MoE", "my_soft_moe"),
        ("soft_moe", "my_soft_moe"),
        ("torch", "torch_router"),
        ("statistics", "statistics_router"),
        ("Torch", "my_torch"),
    ],
)
def test_an_invalid_name_is_refused_with_the_nearest_valid_one(tmp_path, name, nearest):
    with pytest.raises(RequestError, match=f"'{nearest}' would do"):
        write_router(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_router(nearest, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_message(tmp_path):
    with pytest.raises(RequestError, match=r"cannot write .*mine\.py: No such file or directory"):
        write_router("mine", tmp_path / "missing")
