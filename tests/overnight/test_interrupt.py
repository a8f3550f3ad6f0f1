"""A real Ctrl-C: the first saves and exits with a summary, the second exits at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench.execute.context import SIGNALS, Interrupts

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_one_ctrl_c_saves_and_exits_and_the_next_run_resumes(
    new_night, undisturbed, number
) -> None:
    night = new_night()
    process = night.start("--jobs", "1")
    night.wait_for(lambda: "training" in night.output)
    night.wait_for(lambda: any("step 10" in log.read_text() for log in night.home.glob("logs/*")))
    os.killpg(process.pid, number)  # a terminal sends it to the whole process group
    assert process.wait(timeout=60) == 130
    assert "resume with the same command" in night.output
    assert "Traceback" not in night.output
    (slow,) = night.attempts()
    assert (slow["router"], slow["status"]) == ("slow", "interrupted")
    assert night.resumable()
    assert night.rows()["claims"] == []
    assert "4 trained" in night.run()
    assert night.rows() == undisturbed


def test_two_ctrl_c_exit_at_once_without_errors_of_the_threads_that_watch_workers(
    new_night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These threads poll now and then; if they never do, each first sees its worker end.
    never = "import pebble.common\npebble.common.CONSTS.sleep_unit = 60\n"
    (tmp_path / "sitecustomize.py").write_text(never)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    night = new_night(routers=["hangs", "dense"], seeds=1)
    night.trouble("hangs")
    process = night.start("--jobs", "1")
    night.wait_for(lambda: any("to hang" in log.read_text() for log in night.home.glob("logs/*")))
    os.killpg(process.pid, signal.SIGINT)
    night.wait_for(lambda: "Ctrl-C" in night.output)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert "Traceback" not in night.output
    (row,) = night.attempts()
    assert row["status"] == "interrupted"
    night.trouble()
    assert "2 trained" in night.run()
    assert [row["status"] for row in night.attempts()] == ["done", "done"]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_requests_a_stop_and_the_second_raises(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert interrupts.reason is None
        signal.raise_signal(number)
        assert interrupts.reason == SIGNALS[number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)  # an impatient third one does not disturb the shutdown
    assert signal.getsignal(number) is before


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert interrupts.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)
