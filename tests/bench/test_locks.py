"""Locks of devices, held by real processes."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from bench.execute.devices import StoppedWaiting, holding, lock_file, lock_names
from routers import BenchError

pytestmark = pytest.mark.slow

training, timing = partial(holding, alone=False), partial(holding, alone=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
HOLDER = """
import sys, torch
from bench.execute import devices

def waiting(who):
    print("waiting", who, flush=True)

with devices.holding(torch.device("cpu"), waiting, bool, alone=sys.argv[1] == "timing"):
    print("holds", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "moe-router-bench"


@pytest.fixture
def start(tmp_path):
    """Start a process that takes a lock and holds it until its input ends."""
    started = []

    def begin(kind: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that the machine has one GPU, as far as lock names are concerned."""
    properties = SimpleNamespace(uuid="6f9c2d")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def impatient(who: str) -> None:
    raise TimeoutError(who)


def free(lock, device=CPU) -> bool:
    try:
        with lock(device, impatient, bool):
            return True
    except TimeoutError:
        return False


def end(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0].strip()


def test_trainings_run_side_by_side_and_a_timing_waits_for_all_of_them(start):
    first, second = start("training"), start("training")
    assert first.stdout.readline() == second.stdout.readline() == "holds\n"
    assert free(training)
    timed = start("timing")
    message = timed.stdout.readline()
    assert message.startswith("waiting process ")
    assert str(first.pid) in message
    assert str(second.pid) in message
    assert end(first) == "released"
    assert not free(timing)
    assert end(second) == "released"
    assert timed.stdout.readline() == "holds\n", "told once, then it has the lock"
    assert not free(training)
    assert not free(timing)
    assert end(timed) == "released"
    assert free(timing)


@pytest.mark.parametrize("kind", ["training", "timing"])
def test_a_killed_holder_releases_its_lock(start, kind):
    holder = start(kind)
    assert holder.stdout.readline() == "holds\n"
    assert not free(timing)
    waiter = start("timing")
    assert f"process {holder.pid} " in waiter.stdout.readline()
    holder.kill()
    assert waiter.stdout.readline() == "holds\n"


def test_the_holder_named_for_a_worker_is_the_command_of_its_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_hold, args=(str(tmp_path), ready), daemon=True)
    worker.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(TimeoutError, match=rf"^process {os.getpid()} \("),
            timing(CPU, impatient, bool),
        ):
            pass
    finally:
        worker.kill()
        worker.join()


def _hold(folder: str, ready) -> None:
    tempfile.tempdir = folder
    with training(CPU, impatient, bool):
        ready.set()
        multiprocessing.Event().wait()


def test_waiting_ends_when_a_stop_is_requested(start):
    holder = start("timing")
    assert holder.stdout.readline() == "holds\n"
    said: list[str] = []
    with pytest.raises(StoppedWaiting), training(CPU, said.append, lambda: bool(said)):
        pass
    assert len(said) == 1


def test_an_error_inside_the_context_releases_the_lock(folder):
    with pytest.raises(KeyError), timing(CPU, impatient, bool):
        raise KeyError
    assert free(timing)


def test_a_gpu_can_be_timed_while_the_cpu_trains_but_not_vice_versa(gpu):
    with training(CPU, impatient, bool):
        assert free(timing, GPU)
    with training(GPU, impatient, bool):
        assert free(training, GPU)
        assert free(training, CPU)
        assert not free(timing, GPU)
        assert not free(timing, CPU)
    with timing(GPU, impatient, bool):
        assert not free(training, GPU)
        assert not free(timing, CPU)
        assert free(training, CPU)


def test_each_gpu_has_its_own_lock_by_uuid(gpu):
    assert lock_names(CPU) == ["cpu"]
    assert lock_names(GPU) == ["cpu", "gpu-6f9c2d"]
    assert lock_names(torch.device("mps")) == ["cpu", "mps"]


def test_every_user_of_the_machine_can_take_a_lock(folder):
    before = os.umask(0o077)
    try:
        assert free(timing)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE(lock_file("cpu").stat().st_mode) == 0o666


def test_taking_a_lock_updates_the_time_of_its_file(folder):
    assert free(timing)
    os.utime(lock_file("cpu"), (0, 0))
    assert free(training)
    assert lock_file("cpu").stat().st_mtime > 0


def test_a_lock_folder_that_cannot_be_created_is_named(folder):
    folder.write_text("in the way")
    with pytest.raises(BenchError, match=r"cannot use the lock .*moe-router-bench/cpu\.lock"):
        free(timing)
