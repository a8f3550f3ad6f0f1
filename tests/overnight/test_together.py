"""Several runs at once, a database that others have locked, and a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow


def test_runs_share_the_work(new_night) -> None:
    """Different runs share it too: what both ask for is done once."""
    night, alone = new_night(), new_night()
    both = [night.start("--jobs", "1"), night.start("--jobs", "1", "--routers", "dense,random")]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    assert "locked" not in night.output
    assert len(night.attempts()) == 6
    alone.run()
    alone.run("--routers", "dense,random")
    assert night.rows() == alone.rows()


def test_a_waiting_run_takes_over_the_work_of_a_killed_one(new_night, undisturbed) -> None:
    night = new_night()
    first = night.start("--save-every", "0")
    night.wait_for(night.resumable)
    second = night.start()
    night.wait_for(lambda: "waiting" in night.output)
    first.kill()
    first.wait()
    assert second.wait(timeout=240) == 0
    assert night.rows() == undisturbed


@pytest.mark.parametrize("seconds", [12, pytest.param(62, marks=pytest.mark.campaign)])
def test_a_run_waits_for_a_database_that_is_locked_for_long(
    new_night, undisturbed, seconds: int
) -> None:
    """The lock lasts longer than the 5 seconds that Python's SQLite driver waits by default."""
    night = new_night()
    process = night.start()
    night.wait_for(night.attempts)
    other = sqlite3.connect(night.database, isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()
    assert process.wait(timeout=120) == 0
    assert "locked" not in night.output
    assert night.rows() == undisturbed


SMALL_DISK = """
mkdir runs && mount -t tmpfs -o size={first} tmpfs runs || exit 77
{run}; echo "first: $?"
mount -o remount,size=200m runs
{run}; echo "second: $?"
cp runs/bench.db .
"""


@pytest.mark.parametrize("first", ["1200k"])
def test_a_run_resumes_after_the_disk_was_full(new_night, undisturbed, first: str) -> None:
    """A small disk fills up, space is freed, and the same command resumes."""
    night = new_night()
    run = " ".join(night.command("--save-every", "0"))
    script = SMALL_DISK.format(first=first, run=run)
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(unshare, cwd=night.folder, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no small disk can be mounted here: {done.stderr}")
    assert "first: 1" in done.stdout, done.stdout + done.stderr
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr
    assert "second: 0" in done.stdout, done.stdout + done.stderr
    night.home.mkdir(exist_ok=True)
    (night.folder / "bench.db").rename(night.database)
    assert night.rows() == undisturbed


def test_timings_are_taken_while_nothing_trains(new_night) -> None:
    throughput = {"seconds": 0, "min_repeats": 1, "max_load": None, "model_batch": 1}
    suites = {"balance": {}, "throughput": throughput}
    night = new_night(suites=suites)
    night.run()
    logs = [
        log.read_text().splitlines()
        for log in night.home.glob("logs/*.log")
        if log.stem != "rehearsals"
    ]
    spans = []
    for lines in logs:
        stamps = [line[:19] for line in lines if line[:2] == "20"]
        spans.append((any("throughput" in line for line in lines), stamps[0], stamps[-1]))
    assert len(spans) == 6
    for timing, begin, end in spans:
        for other_timing, other_begin, other_end in spans:
            if timing and not other_timing:
                assert end <= other_begin or other_end <= begin
