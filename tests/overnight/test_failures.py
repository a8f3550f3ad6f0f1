"""What goes wrong in a worker costs its own trial alone: a row that says what; the run goes on."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.mark.parametrize(
    ("trouble", "status", "error", "in_log"),
    [
        ("raise", "failed", "ValueError: a mistake of the router's", "training failed after"),
        ("exit", "failed", "SystemExit: 0", "training failed after"),
        ("leave", "failed", "its process ended with exit status 0 and no result", "training: new"),
        ("crash", "failed", "its process was killed by SIGSEGV", "Segmentation fault"),
        ("hang", "timed_out", "it took longer than 12 s (--timeout)", "about to hang"),
        ("memory", "out_of_memory", "OutOfMemoryError: CUDA out of memory", "micro-batches of 32"),
    ],
)
def test_a_trial_that_goes_wrong_is_a_row(new_night, trouble, status, error, in_log) -> None:
    night = new_night(routers=["troubled", "dense"], seeds=1)
    night.trouble(trouble)
    output = night.run(*("--timeout", "12s") if trouble == "hang" else (), status=1)
    assert "1 trained" in output
    assert error in output
    bad, good = sorted(night.attempts(), key=lambda row: row["status"] == "done")[-2:]
    assert (bad["router"], bad["status"], bad["error"]) == ("troubled", status, error)
    assert (good["router"], good["status"]) == ("dense", "done")
    log = (night.home / bad["log"]).read_text()
    assert in_log in log or in_log == bad["note"].partition(":")[0]
    assert bad["log_tail"]
    assert bad["log_tail"].splitlines()[0] in log

    again = night.run(status=1)
    assert "1 reused" in again
    assert f"--retry {'timed_out' if trouble == 'hang' else 'failed'} tries again" in again
    night.trouble(None)
    assert "1 trained" in night.run("--retry", "all")
    assert night.attempts()[-1]["status"] == "done"


def test_a_worker_that_is_killed_is_continued_by_the_next_run(new_night) -> None:
    night = new_night(routers=["slow", "dense"], seeds=1, epochs=6)
    undisturbed = new_night("undisturbed", routers=["slow", "dense"], seeds=1, epochs=6)
    process = night.start("--jobs", "1", "--save-every", "0")
    night.wait_for(night.resumable)
    (worker,) = night.workers()
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    killed, done = night.attempts()
    assert (killed["status"], done["status"]) == ("interrupted", "done")
    assert killed["error"].startswith("its process was killed by SIGKILL")
    assert "step" in killed["log_tail"]
    assert "1 trained" in night.run()
    assert "goes on after step" in (night.home / killed["log"]).read_text()
    undisturbed.run()
    assert night.rows() == undisturbed.rows()


def test_what_is_out_of_memory_is_tried_once_more_in_halved_batches(new_night) -> None:
    night = new_night(routers=["troubled"], seeds=1)
    night.trouble("little_memory")
    night.run()
    whole, halved = night.attempts()
    assert (whole["status"], halved["status"]) == ("out_of_memory", "done")
    assert halved["note"] == "micro-batches of 32: 64 were out of memory"


def test_a_plugin_that_changes_while_a_run_goes_on_is_no_result_of_the_old_one(new_night) -> None:
    night = new_night(routers=["slow", "troubled"], seeds=1, epochs=4)
    process = night.start("--jobs", "1", "--save-every", "0")
    night.wait_for(night.resumable)
    plugin = night.folder / "troubles.py"
    plugin.write_text(plugin.read_text().replace("logits[..., None]", "2 * logits[..., None]"))
    assert process.wait(timeout=120) == 1
    slow, troubled = night.attempts()
    assert (slow["status"], troubled["status"]) == ("done", "failed")
    assert "has changed since the run began" in troubled["error"]
    assert "2 trained" in night.run()
