"""Trainings that resume after their process was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.data.files import sweep
from bench.train import checkpoint
from bench.train.outcome import Outcome, read_outcome

pytestmark = pytest.mark.slow

TRAINING = """
import sys
from pathlib import Path
import torch
from bench.config import TrialSpec
from bench.data import Datasets
from bench.train import train_trial

torch.set_num_threads(1)
spec = TrialSpec.model_validate_json(Path(sys.argv[1]).read_text())
train_trial(spec, Datasets().get(spec.data), torch.device("cpu"), Path(sys.argv[2]), save_every=0)
"""


@pytest.fixture(scope="module")
def spec_file(tiny_spec, tmp_path_factory) -> Path:
    """A training on the digits that takes seconds."""
    recipe = {"epochs": 3, "batch_size": 64, "ema": 0.9, "snapshots": 4, "evaluations": 9}
    spec = tiny_spec("softmax_token_choice", router={"noise_std": 1.0}, **recipe)
    file = tmp_path_factory.mktemp("killed") / "spec.json"
    file.write_text(spec.model_dump_json())
    return file


@pytest.fixture(scope="module")
def whole(spec_file: Path, tmp_path_factory) -> Outcome:
    """Return the outcome of an undisturbed training."""
    outcome, printed = trained(spec_file, tmp_path_factory.mktemp("whole"))
    assert printed == ""
    return outcome


@contextmanager
def training(spec_file: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that trains while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(spec_file), str(folder)],
        cwd=Path(__file__).parents[2],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def trained(spec_file: Path, folder: Path) -> tuple[Outcome, str]:
    """Return the outcome of a training that runs to its end, and what it printed."""
    with training(spec_file, folder) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    return read_outcome(folder), out


def wait_for(seen: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds; the process must not end before."""
    while not seen():
        assert process.poll() is None, process.communicate()
        time.sleep(0.0001)


def bits(outcome: Outcome) -> list[object]:
    history = [(row.step, row.flops, row.name, row.value) for row in outcome.history]
    snapshots = [(kept.step, kept.flops, kept.sha256) for kept in outcome.snapshots]
    return [outcome.status, outcome.steps, outcome.flops, outcome.uncounted, history, snapshots]


def kill_after_a_save(spec_file: Path, folder: Path, pause: float) -> None:
    def stamp() -> int:
        return file.stat().st_mtime_ns if file.exists() else 0

    file = folder / checkpoint.FILE
    before = stamp()
    with training(spec_file, folder) as process:
        wait_for(lambda: stamp() != before, process)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "outcome.json").exists()


def test_a_training_killed_at_any_moment_gives_the_same_bits(spec_file, whole, tmp_path):
    draw = random.Random(0)
    for _ in range(2):
        kill_after_a_save(spec_file, tmp_path, pause=draw.uniform(0, 0.2))
    parts, printed = trained(spec_file, tmp_path)
    assert "training resumes after step" in printed
    assert bits(parts) == bits(whole)


def test_a_training_killed_while_saving_resumes_from_the_previous_save(spec_file, whole, tmp_path):
    file = tmp_path / checkpoint.FILE
    with training(spec_file, tmp_path) as process:
        part = tmp_path / f"{checkpoint.FILE}.{process.pid}.part"
        wait_for(file.exists, process)
        while True:
            wait_for(part.exists, process)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)  # until it has stopped
            if part.exists():
                break
            process.send_signal(signal.SIGCONT)
        content = file.read_bytes()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert part.exists()
    assert file.read_bytes() == content
    parts, printed = trained(spec_file, tmp_path)
    assert "training resumes after step" in printed
    assert bits(parts) == bits(whole)
    assert not list(tmp_path.glob("*.part"))


def test_files_of_a_living_process_are_not_cleaned_up(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (tmp_path / f"x.{pid}.part" for pid in (ended.pid, os.getppid()))
    dead.touch()
    alive.touch()
    (tmp_path / "kept").touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, tmp_path / "kept"])
    sweep(tmp_path / "nowhere")
