"""Timings beside busy processes, and beside idle ones."""

from __future__ import annotations

import shutil
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from suites import build_suite
from suites.support import system_load
from suites.support.system_load import (
    Clocks,
    QuietTimer,
    Timed,
    allowed_cores,
    excess,
    gpu_use,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@dataclass
class FakeMachine:
    """The clocks of a machine where others keep `load` cores busy; this process uses `compute`."""

    load: float = 0.0
    wall: float = 100.0
    system: float = 5000.0
    own: float = 7.0
    timings: int = 0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.own

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.system += self.load * seconds

    def compute(self, seconds: float, threads: int = 1) -> int:
        self.sleep(seconds)
        self.own += threads * seconds
        self.system += threads * seconds
        self.timings += 1
        return self.timings


@pytest.fixture
def fake(monkeypatch) -> FakeMachine:
    machine = FakeMachine()
    monkeypatch.setattr(system_load, "time", machine)
    monkeypatch.setattr(system_load, "busy_seconds", lambda: machine.system)
    return machine


@pytest.fixture
def process(tmp_path):
    """Start a shell that runs a script under its own name."""
    started = []

    def start(name: str, script: str) -> psutil.Process:
        (tmp_path / name).symlink_to(shutil.which("sh"))
        started.append(subprocess.Popen([str(tmp_path / name), "-c", script]))
        return psutil.Process(started[-1].pid)

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_time_that_is_neither_idle_nor_ours_is_the_load_of_others(fake):
    start = Clocks.now()
    fake.load = 1.25
    fake.compute(2.0, threads=2)
    assert Clocks.now().others_since(start) == pytest.approx(1.25)


def test_disagreeing_clocks_give_no_negative_load():
    assert Clocks(2.0, 10.0, 1.02).others_since(Clocks(1.0, 9.0, 0.0)) == 0.0


def test_waiting_for_a_disk_is_not_load_and_guests_are_counted_once(monkeypatch):
    times = {"user": 10.0, "nice": 1.0, "system": 2.0, "idle": 50.0, "iowait": 20.0, "steal": 4.0,
            "guest": 3.0, "guest_nice": 0.5}  # fmt: skip

    class Times:
        def _asdict(self):
            return times

    monkeypatch.setattr(psutil, "cpu_times", Times)
    assert system_load.busy_seconds() == 17.0


def test_an_undisturbed_timing_is_taken_once(fake):
    fake.load = 0.2
    made = QuietTimer(CPU, 0.25).time(lambda: fake.compute(3.0))
    assert made.result == fake.timings == 1
    assert (made.cores, made.gpu) == (pytest.approx(0.2), None)
    assert not made.disturbed


def under_loads(fake, *loads):
    """Take a timing that meets these loads, one after another."""
    each = iter(loads)

    def timing():
        fake.load = next(each)
        return fake.compute(1.0)

    return timing


def test_a_disturbed_timing_is_repeated_and_the_undisturbed_one_counts(fake):
    made = QuietTimer(CPU, 0.25).time(under_loads(fake, 1.0, 0.5, 0.1, 1.0))
    assert made.result == 3
    assert made.cores == pytest.approx(0.1)
    assert not made.disturbed


def test_if_all_timings_are_disturbed_the_least_disturbed_one_counts(fake):
    made = QuietTimer(CPU, 0.25).time(under_loads(fake, 2.0, 1.3, 0.6, 1.9))
    assert fake.timings == system_load.TRIES
    assert made.result == 3
    assert made.cores == pytest.approx(0.6)
    assert made.disturbed


def test_timings_wait_once_for_a_busy_machine_to_become_quiet(fake):
    timer, timing = QuietTimer(CPU, 0.25), under_loads(fake, *[1.0] * 5, 0.1, *[1.0] * 4)
    tries = []
    for _ in range(4):
        before = fake.timings
        timer.time(timing)
        tries.append(fake.timings - before)
    assert tries == [system_load.TRIES, 1, 1, system_load.TRIES]


def test_without_a_limit_any_load_is_accepted(fake):
    fake.load = 50.0
    timer = QuietTimer(CPU, None)
    made = timer.time(lambda: fake.compute(1.0))
    assert made == Timed(1, pytest.approx(50.0), None, 0.0)
    assert not made.disturbed
    assert not timer.judges


def test_the_load_after_a_short_timing_is_watched_if_that_decides(fake):
    fake.load = 1.0
    before = fake.wall
    assert QuietTimer(CPU, None).time(lambda: fake.compute(0.01)).cores is None
    assert fake.wall - before == pytest.approx(0.01)
    made = QuietTimer(CPU, 2.0).time(lambda: fake.compute(0.01))
    assert made.cores == pytest.approx(1.0)


def test_others_may_use_5_percent_of_the_cores_or_half_of_them_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    assert allowed_cores(0.25, CPU) == 0.25
    monkeypatch.setattr(psutil, "cpu_count", lambda: 16)
    assert allowed_cores(0.25, CPU) == 0.8
    assert allowed_cores(0.25, GPU) == 8
    assert allowed_cores(12.0, GPU) == 12
    assert allowed_cores(None, GPU) is None


def test_gpu_use_by_others_counts_if_it_is_known():
    assert excess(2.0, None, 8) == 0.25
    assert excess(0.0, 0.02, 8) == pytest.approx(0.4)
    assert excess(2.0, 0.1, 8) == pytest.approx(2.0)
    assert excess(None, None, 8) == 0.0


@pytest.mark.parametrize(
    ("script", "use"),
    [("echo 37", 0.37), ("echo 0", 0.0), ("echo '[N/A]'", None), ("exit 9", None)],
)
def test_nvidia_smi_is_queried_for_the_use_of_one_gpu(tmp_path, monkeypatch, script, use):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{script}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_use("GPU-1234") == use
    assert "--id=GPU-1234" in Path(tmp_path, "asked").read_text()


def test_without_nvidia_smi_the_use_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_use("GPU-1234") is None


def test_a_busy_process_is_measured(process):
    """The system's clocks are compared with those of the process."""
    busy = process("busybee", "while :; do :; done")
    start, worked = Clocks.now(), sum(busy.cpu_times()[:2])
    time.sleep(1.0)
    end, worked = Clocks.now(), sum(busy.cpu_times()[:2]) - worked
    # Counted in steps of 10 ms, by several counters.
    assert end.others_since(start) >= (worked - 0.1) / (end.wall - start.wall)


def test_the_work_of_our_other_threads_is_not_load():
    worked = []

    def work():
        while time.thread_time() < 0.3:
            pass
        worked.append(time.thread_time())

    start = Clocks.now()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert Clocks.now().own - start.own >= worked[0]


def test_the_suite_records_a_disturbed_timing_with_its_load(layers, process, monkeypatch):
    monkeypatch.setattr(system_load, "TRIES", 1)
    process("busybee", "while :; do :; done")

    def values(**options):
        suite = build_suite("throughput", model_batch=0, seconds=0.0, min_repeats=2, **options)
        return {metric.name: metric.value for metric in suite.measure(layers("dense"))}

    timed = values(max_load=0.0)
    assert timed["other_load"] > 0
    assert (timed["disturbed"], timed["train_disturbed"]) == (1, 1)
    assert timed["forward_overhead"] > 0
    timed = values(max_load=1e6)
    assert timed["train_other_load"] > 0
    assert (timed["disturbed"], timed["train_disturbed"]) == (0, 0)
    timed = values(max_load=None)
    assert "disturbed" not in timed
    assert "other_load" not in timed, "too short to tell"
