"""`run` warns once about files that a plugin reads but no fingerprint covers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from bench.execute import plugins

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PLUGIN = """
import importlib
from pathlib import Path
import torch
import helper
from routers import Router, TokenChoiceRouting, register_router

SHARPNESS = float(Path(__file__).with_name("read_at_import.txt").read_text())
importlib.import_module("dyn" + "amic")

@register_router("reader", family="token_choice")
class Reader(Router):
    '''Reads a table whenever it routes.'''

    def allocate(self, logits):
        Path(__file__).with_name("written.txt").write_text("")
        gates = torch.softmax(helper.scale() * SHARPNESS * logits, dim=-1)
        return TokenChoiceRouting.top_k(gates, k=1, capacity=self.capacity(logits))
"""
HELPER = """
from pathlib import Path
def scale(): return float(Path(__file__).with_name("read_in_training.txt").read_text())
"""


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_run_names_uncovered_files_once(tmp_path: Path) -> None:
    plugin = write(tmp_path / "plugin" / "mine.py", PLUGIN)
    read = write(plugin.with_name("read_at_import.txt"), "2")
    path = plugin.parent / "path"
    write(path / "helper.py", HELPER)
    also = [write(path / "dynamic.py"), write(path / "read_in_training.txt", "2")]
    asked = ["accuracy", "--preset", "smoke", "--routers", "reader", "--plugin", plugin]
    asked += ["--set", "train.epochs=0.1", "--jobs", "1", "--no-report"]
    done = subprocess.run(
        [sys.executable, ROOT / "bench.py", "run", *asked, "--home", tmp_path / "runs"],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.partition("changed: ")[2].split(", ") == sorted(map(str, [read, *also]))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_covered_installed_temporary_and_the_benchs_own_files_are_not_named(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = write(tmp_path / "mine" / "mine.py", "import helper")
    table = write(tmp_path / "mine" / "table.txt")
    compiled = write(tmp_path / "mine" / "__pycache__" / "helper.cpython-311.pyc")
    silent = [
        plugin,
        compiled,
        write(tmp_path / "mine" / "helper.py"),
        write(tmp_path / "mine" / "runs" / "bench.db"),
        write(temporary / "scratch.txt"),
        Path(torch.__file__),
        Path(os.__file__),
        ROOT / "routers" / "soft.py",
        Path("/proc/self/status"),
        tmp_path / "mine",
        tmp_path / "mine" / "not_there.txt",
    ]
    monkeypatch.setattr(plugins, "OPENED", set(map(str, [*silent, table])))
    assert plugins.opened_uncovered([plugin], tmp_path / "mine" / "runs") == [table]


def test_files_next_to_a_plugin_in_a_temporary_folder_are_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = write(temporary / "mine" / "mine.py")
    table = write(temporary / "mine" / "table.txt")
    opened = {str(table), str(write(temporary / "scratch.txt"))}
    monkeypatch.setattr(plugins, "OPENED", opened)
    assert plugins.opened_uncovered([plugin], temporary / "runs") == [table]
