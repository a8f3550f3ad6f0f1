"""`kill -9` at any moment: nothing is lost, nothing is done twice, and the bits are the same."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("moment", ["checkpoint", "measuring", "between"])
def test_a_run_whose_main_process_is_killed_can_be_resumed(
    new_night, undisturbed, moment: str
) -> None:
    night = new_night()
    process = night.start("--save-every", "0")
    wait = {
        "checkpoint": night.resumable,
        "measuring": lambda: list(night.home.glob("trials/*/outcome.json")),
        "between": lambda: any(row["status"] == "done" for row in night.attempts()),
    }
    night.wait_for(wait[moment])
    workers = [psutil.Process(worker) for worker in night.workers()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive  # workers do not outlive their run
    night.run()
    assert night.rows() == undisturbed


LONG = [pytest.param(30, seed, marks=pytest.mark.campaign) for seed in range(1, 6)]


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), *LONG])
def test_a_run_repeatedly_killed_with_its_workers_loses_nothing(
    new_night, undisturbed, kills: int, seed: int
) -> None:
    night, moments = new_night(), random.Random(seed)
    for number in range(kills):
        process = night.start("--save-every", "0")
        night.wait_for(lambda run=process: run.poll() is not None or night.workers())
        if process.poll() is not None:  # everything is done
            break
        time.sleep(moments.uniform(0.3, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed {number + 1} times")
    night.run()
    assert night.rows() == undisturbed


def test_a_power_cut_during_a_checkpoint_loses_nothing(new_night, undisturbed) -> None:
    night = new_night()
    process = night.start("--save-every", "0")
    parts = "trials/*/resume.safetensors.*.part"  # exists for milliseconds only
    night.wait_for(lambda: list(night.home.glob(parts)), every=0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    night.run()
    assert night.rows() == undisturbed
