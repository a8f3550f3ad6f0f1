"""Several runs at once, a database that others hold, a disk without room."""

from __future__ import annotations

import sqlite3
import subprocess
import time

import pytest


def test_two_runs_share_the_work(new_night) -> None:
    """Also different ones: what both ask for is done once."""
    asked = {"routers": ["slow", "dense", "soft_moe"], "seeds": 2, "epochs": 2}
    night, alone = new_night(**asked), new_night("alone", **asked)
    both = [
        night.start("--jobs", "1"),
        night.start("--jobs", "1"),
        night.start("--jobs", "1", "--routers", "soft_moe,random"),
    ]
    assert [process.wait(timeout=240) for process in both] == [0, 0, 0]
    output = (night.folder / "output.txt").read_text()
    assert "locked" not in output
    assert len(night.attempts()) == 8
    assert all(row["status"] == "done" for row in night.attempts())
    alone.run()
    alone.run("--routers", "soft_moe,random")
    assert night.rows() == alone.rows()


def test_what_a_killed_run_held_is_taken_over_by_one_that_waits_for_it(new_night) -> None:
    night = new_night(routers=["slow"], seeds=1, epochs=20)
    first = night.start()
    night.wait_for(night.workers)
    second = night.start()
    night.wait_for(lambda: "waiting" in (night.folder / "output.txt").read_text())
    first.kill()
    assert second.wait(timeout=240) == 0
    (row,) = night.attempts()
    assert row["status"] == "done"


def test_a_database_that_somebody_locks_for_a_minute(new_night) -> None:
    night = new_night(routers=["slow", "dense"], seeds=1, epochs=2)
    process = night.start()
    night.wait_for(night.attempts)
    with sqlite3.connect(night.database, isolation_level=None) as other:
        night.wait_for(lambda: other.execute("BEGIN IMMEDIATE"))
        time.sleep(62)
        other.execute("ROLLBACK")
    assert process.wait(timeout=120) == 0
    assert "locked" not in (night.folder / "output.txt").read_text()
    assert [row["status"] for row in night.attempts()] == ["done", "done"]


SMALL_DISK = """
mkdir runs && mount -t tmpfs -o size={first} tmpfs runs || exit 77
{run}; echo "first: $?"
mount -o remount,size=200m runs
{run}; echo "second: $?"
cp runs/bench.db .
"""


@pytest.mark.parametrize("first", ["700k", "1100k", "1600k"])
def test_a_full_disk(new_night, first: str) -> None:
    """A small disk fills up, somebody makes room, and the same command goes on."""
    night, undisturbed = new_night(seeds=2), new_night("undisturbed", seeds=2)
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
    undisturbed.run()
    assert night.rows() == undisturbed.rows()


def test_timings_are_taken_while_nothing_trains(new_night) -> None:
    throughput = {"seconds": 0, "min_repeats": 1, "max_load": None, "model_batch": 1}
    suites = {"balance": {}, "throughput": throughput}
    night = new_night(routers=["slow", "dense"], seeds=2, suites=suites)
    night.run()
    logs = [log.read_text().splitlines() for log in night.home.glob("logs/*")]
    spans = []
    for lines in logs:
        stamps = [line[:19] for line in lines if line[:2] == "20"]
        spans.append((any("throughput" in line for line in lines), stamps[0], stamps[-1]))
    assert len(spans) == 6
    for timing, begin, end in spans:
        for other_timing, other_begin, other_end in spans:
            if timing and not other_timing:
                assert end <= other_begin or other_end <= begin
