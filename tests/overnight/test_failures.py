"""An error in a worker costs only its own trial: a row says what happened and the run goes on."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import pytest

pytestmark = pytest.mark.slow

OUTCOMES = {
    "raises": ("failed", "ValueError: a mistake of the router's", "training failed after"),
    "exits": ("failed", "SystemExit: 0", "training failed after"),
    "leaves": ("failed", "its process ended with exit status 0 and no result", "training: new"),
    "crashes": ("failed", "its process was killed by SIGSEGV", "Segmentation fault"),
    "crashes_early": ("failed", "its process ended with exit status 3", "training: new"),
    "hangs": ("timed_out", "it took longer than 20 s (--timeout)", "about to hang"),
    "too_large": ("out_of_memory", "OutOfMemoryError: CUDA out of memory", "training: new"),
}


def test_a_failed_trial_leaves_a_row_and_the_run_goes_on(new_night) -> None:
    night = new_night(routers=[*OUTCOMES, "dense"], seeds=1)
    night.trouble(*OUTCOMES)
    output = night.run("--timeout", "20s", status=1)
    assert "1 trained" in output
    rows = {row["router"]: row for row in night.attempts()}
    for router, (status, error, in_log) in OUTCOMES.items():
        row = rows[router]
        assert row["status"] == status
        assert row["error"].startswith(error)
        assert error in output
        log = (night.home / row["log"]).read_text()
        assert in_log in log
        assert row["log_tail"].splitlines()[-1] in log
    assert "raise ValueError" in rows["raises"]["traceback"]
    assert "; --set train.micro_batches=2 trains" in rows["too_large"]["error"]
    assert rows["dense"]["status"] == "done"

    again = night.run(status=1)
    assert "1 reused" in again
    assert "it failed: SystemExit: 0; --retry failed tries again" in again
    assert "--retry timed_out tries again" in again
    assert len(night.attempts()) == 8
    night.trouble()
    assert "6 trained" in night.run("--retry", "failed", status=1)
    assert "1 trained" in night.run("--retry", "all")
    assert {row["status"] for row in night.attempts()[-7:]} == {"done"}


def test_the_next_run_resumes_the_trial_of_a_killed_worker(new_night, undisturbed) -> None:
    night = new_night()
    process = night.start("--jobs", "1", "--save-every", "0")
    night.wait_for(night.resumable)
    (worker,) = night.workers()
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    killed, *others = night.attempts()
    assert killed["status"] == "interrupted"
    assert [row["status"] for row in others] == ["done"] * 3
    assert killed["error"].startswith("its process was killed by SIGKILL")
    assert "step" in killed["log_tail"]
    assert "1 trained" in night.run()
    assert night.rows() == undisturbed


def test_results_are_not_attributed_to_a_plugin_that_changed_during_the_run(new_night) -> None:
    night = new_night(routers=["slow", "too_large"], seeds=1)
    plugin = night.folder / "mine.py"
    shutil.copy(night.plugin, plugin)
    night = replace(night, plugin=plugin)
    process = night.start("--jobs", "1", "--save-every", "0")
    night.wait_for(night.resumable)
    plugin.write_text(plugin.read_text().replace("logits[..., None]", "2 * logits[..., None]"))
    assert process.wait(timeout=120) == 1
    slow, other = night.attempts()
    # Nor is it a failure of the old plugin: with the edit reverted, its training would resume.
    assert (slow["status"], other["status"]) == ("done", "interrupted")
    assert "has changed since the run began" in other["error"]
    assert "stopped early" in night.output
    process = night.start()
    assert process.wait(timeout=120) == 0
    assert "2 trained" in night.output


def test_a_suite_that_ends_its_process_loses_only_its_own_measurement(new_night) -> None:
    suites = {"ends_its_process": {}, "accuracy": {}}
    night = new_night(routers=["dense"], seeds=1, suites=suites)
    night.trouble("ends_its_process")
    output = night.run(status=1)
    assert "ends_its_process failed: its process ended with exit status 3" in output
    assert "1 trained, 1 measured, 1 failed" in output
    night.trouble()
    assert "1 reused, 1 measured" in night.run()


def test_trials_derived_from_a_killed_trial_wait_for_it(new_night) -> None:
    parts = [
        {"routers": ["slow"]},
        {"routers": ["slow"], "parent": {"router": "slow", "transform": "fine_tune"}},
    ]
    night, alone = (new_night(routers=[], seeds=1, parts=parts) for _ in range(2))
    process = night.start("--jobs", "1", "--save-every", "0")
    night.wait_for(night.resumable)
    (worker,) = night.workers()
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    assert [row["status"] for row in night.attempts()] == ["interrupted"]
    assert "2 trained" in night.run()
    alone.run()
    assert night.rows() == alone.rows()
