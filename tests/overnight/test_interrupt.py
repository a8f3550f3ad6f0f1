"""Ctrl-C, for real: once saves and leaves with a summary, twice leaves at once."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_once_saves_and_leaves_and_the_next_run_goes_on(new_night, number) -> None:
    asked = {"routers": ["dense", "slow"], "seeds": 2, "epochs": 8}
    night, undisturbed = new_night(**asked), new_night("undisturbed", **asked)
    process = night.start("--jobs", "1")
    night.wait_for(lambda: any(row["router"] == "slow" for row in night.attempts()))
    os.killpg(process.pid, number)  # a terminal sends it to all of the group
    assert process.wait(timeout=60) == 130
    output = (night.folder / "output.txt").read_text()
    assert "the same command goes on" in output
    assert "Traceback" not in output
    dense, slow = night.attempts()
    assert (dense["status"], slow["status"]) == ("done", "interrupted")
    assert night.resumable()
    assert night.rows()["claims"] == []
    assert "3 trained, 1 reused" in night.run().replace("reused, ", "")
    undisturbed.run()
    assert night.rows() == undisturbed.rows()


def test_twice_leaves_at_once(new_night) -> None:
    night = new_night(routers=["troubled", "dense"], seeds=1)
    night.trouble("hang")
    process = night.start("--jobs", "1")
    night.wait_for(
        lambda: any("about to hang" in log.read_text() for log in night.home.glob("logs/*"))
    )
    os.killpg(process.pid, signal.SIGINT)
    night.wait_for(lambda: "Ctrl-C" in (night.folder / "output.txt").read_text())
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    (row,) = night.attempts()
    assert row["status"] == "interrupted"
    night.trouble(None)
    assert "2 trained" in night.run()
    assert [row["status"] for row in night.attempts()] == ["done", "done"]
