"""`status` of a run that is active, has finished, was stopped or died; with real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from itertools import groupby
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli import main
from bench.cli.standing import follow
from results import CodeVersion, Machine, Run, Store, Subject, open_store
from results.models import AttemptRow
from results.store.leases import this_process

ROOT = Path(__file__).parent.parent
MACHINE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})
COMMAND = "bench.py run --preset tiny --set 'router.affinity=linear'"
OTHER_RUN = f"""
import sys
from results import Run, open_store
from results.store.leases import this_process
with open_store(sys.argv[1], create=False) as store:
    study = store.find_study("tiny").id
    run = store.start_run(study, Run(*this_process(), command={COMMAND!r}, jobs=2))
    for trial, progress in (
        (2, dict(doing="training", step=116, steps=464, loss=1.5, accuracy=0.71, seconds=30.0)),
        (3, dict(doing="entropy", since=0.0)),
    ):
        lease = store.lease(run, trial_id=trial)
        if progress["doing"] == "training":
            store.begin_attempt(trial, 1, 1, "logs/2.log")
        store.heartbeat(run, {{lease: dict(progress, device="cpu")}})
    print("ready", flush=True)
    sys.stdin.read()
    store.finish_run(run)
"""


def trial(store: Store, number: int, router: str, seed: int) -> None:
    described = {
        "router": {"name": router, "options": {}},
        "experts": {"name": "mlp", "num_experts": 8},
        "model": {"name": "vit"},
        "data": {"name": "digits"},
        "seed": seed,
    }
    made = store.trials([Subject(f"{number}".rjust(10, "0").ljust(64, "f"), described)])[0]
    assert made == number
    store.add_trial_to_study(store.study("tiny", {}), made)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with six trials: one failed, one done, and four waiting."""
    with open_store(tmp_path / "bench.db") as store:
        machine, code = store.machine(MACHINE), store.code_version(CODE)
        routers = ["soft_moe", "sparsity_constrained_expert_choice", "dense"]
        for number in range(1, 7):
            trial(store, number, routers[(number - 1) % 3], (number - 1) // 3)
        failed = store.begin_attempt(1, machine, code, "logs/1.log")
        failure = {"error": "RuntimeError: \x1b[31mbad\x1b[0m\nmore", "seconds": 3.0}
        store.finish_attempt(failed, "failed", **failure)  # type: ignore[arg-type]
        with store.writing() as session:  # older code wrote such notes
            session.get_one(AttemptRow, failed).note = "micro-batches of 32"
        done = store.begin_attempt(3, machine, code, "logs/3.log")
        store.finish_attempt(done, "done", seconds=200.0, checkpoint="c")
    return tmp_path


@pytest.fixture
def other(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in another process: it trains trial 2, measures trial 3, and ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN, str(home / "bench.db")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def status(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exited:
        main(["status", "--home", str(home), *arguments])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


def test_a_run_in_another_terminal_is_shown_with_its_workers(
    home: Path, other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = status(home, capsys).splitlines()
    running = rf"running since \d\d:\d\d \S+ \(\d+\.\d s\): process {other.pid} on \S+, 2 workers"
    assert lines[0] == "Study tiny"
    assert re.fullmatch(running, lines[1])
    assert lines[2] == "1 of 6 trials done, 1 running, 1 failed, 3 waiting"
    # Trial 2 takes 90 s, the others 200 or 120 s; the second worker's measurement has no forecast.
    assert re.fullmatch(r"\d+ trials/h, ends .*\d\d:\d\d \S+ \(in \d min \d\d s\)", lines[3])
    workers = [line.split() for line in lines[5:8]]
    assert workers[0] == ["seed", "step", "loss", "top-1", "%", "left"]
    assert workers[1] == [
        *("sparsity_constrained_expert_choice", "0", "116/464", "1.500", "71.0"),
        *("1", "min", "30", "s"),
    ]
    assert workers[2] == ["dense", "0", "entropy"]
    assert max(len(line) for line in lines if str(home) not in line) <= 80
    assert re.search(r"^0000000002  sparsity\S+ +0  running ", "\n".join(lines), re.MULTILINE)


def test_workers_of_several_hosts_are_shown_by_host(
    home: Path, other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(home / "bench.db") as store:
        for number, (trial, host) in enumerate(
            ((4, "node7 boot"), (5, "node7 boot"), (6, "node2 b"))
        ):
            run = store.start_run(1, Run(host, 70 + number, 0.0, command=COMMAND, jobs=1))
            lease = store.lease(run, trial_id=trial)
            assert lease is not None
            store.heartbeat(run, {lease: {"doing": "training", "step": 7, "steps": 8}})
    lines = status(home, capsys).splitlines()
    running = [line.partition("): ")[2] for line in lines if line.startswith("running since")]
    assert "process 72 on node2, 1 worker" in running
    assert "2 processes on node7, 2 workers" in running
    assert len(running) == 3
    heading = next(place for place, line in enumerate(lines) if line.split()[:1] == ["seed"])
    assert lines[heading].split()[-1] == "host"
    hosts = [line.split()[-1] for line in lines[heading + 1 : heading + 6]]
    assert len(list(groupby(hosts))) == 3  # one host after the other
    assert hosts.count("node7") == 2
    assert max(len(line) for line in lines if str(home) not in line) <= 80


def test_a_failed_trial_is_shown_with_its_note_and_its_log(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = status(home, capsys)
    assert "0000000001 failed: RuntimeError: bad\n" in out
    assert "0000000001 note: micro-batches of 32\n" in out
    assert f"  log: {home}/logs/1.log\n" in out


def test_a_killed_run_is_shown_as_died_and_can_be_resumed(
    home: Path, other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other.kill()
    other.wait()
    lines = status(home, capsys).splitlines()
    assert re.fullmatch(rf"died: process {other.pid} on \S+, last heard from .+", lines[1])
    assert lines[2] == f"resume with: {COMMAND}"
    assert lines[3] == "1 of 6 trials done, 1 failed, 1 interrupted, 3 waiting"
    assert "ends" not in lines[4]
    assert any(line.startswith("0000000002  sparsity") and "interrupted" in line for line in lines)


def test_a_run_that_ended_early_is_shown_as_stopped(
    home: Path, other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other.communicate()
    lines = status(home, capsys).splitlines()
    assert re.fullmatch(r"stopped \d\d:\d\d \S+ after \d+\.\d s with 4 trials left", lines[1])
    assert lines[2] == f"resume with: {COMMAND}"


def test_a_run_that_did_everything_is_shown_as_finished(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(home / "bench.db") as store:
        run = store.start_run(1, Run(*this_process(), command=COMMAND, jobs=1))
        for number in (2, 4, 5, 6):
            attempt = store.begin_attempt(number, 1, 1, None)
            store.finish_attempt(attempt, "done", seconds=1.0, checkpoint="c")
        store.finish_run(run)
    lines = status(home, capsys).splitlines()
    assert re.fullmatch(r"finished \d\d:\d\d \S+ after \d+\.\d s", lines[1])
    assert lines[2] == "5 of 6 trials done, 1 failed"


def test_a_database_without_a_run_shows_only_its_trials(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = status(home, capsys).splitlines()
    assert lines[:3] == ["Study tiny", "1 of 6 trials done, 1 failed, 4 waiting", ""]


@pytest.mark.slow
def test_watching_through_a_pipe_prints_the_status_until_the_run_is_over(
    home: Path, other: subprocess.Popen[str]
) -> None:
    watching = watch(home)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "Study tiny\n"
    assert watching.stdout.readline().startswith("running since")
    other.communicate()
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")
    assert "stopped" in out
    assert "\x1b" not in out


def test_watching_on_a_terminal_redraws_the_board_in_place(
    home: Path, other: subprocess.Popen[str]
) -> None:
    out = StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, highlight=False)
    end = threading.Timer(1, other.communicate)
    with open_store(home / "bench.db") as store:
        end.start()
        follow(store, "tiny", console)
    end.join()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue().replace("\r", "\n")).splitlines()
    assert max(map(len, lines)) <= 80
    assert "1 of 6 trials done, 1 running, 1 failed, 3 waiting" in lines
    assert any(line.split()[2:4] == ["116/464", "1.500"] for line in lines)
    assert any("38 %" in line and "━" in line for line in lines)  # two and a quarter of six


@pytest.mark.slow
def test_ctrl_c_ends_watching_without_failure(home: Path, other: subprocess.Popen[str]) -> None:
    watching = watch(home)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "Study tiny\n"
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")
    assert other.poll() is None


def watch(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "bench.py"), "status", "--watch", "--home", str(home)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
