"""The live display of a run, on a terminal and in a file."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench.cli.board import Board, show_board, worker_cells
from bench.cli.live import PLAIN_SECONDS, Display
from bench.cli.standing import Monitor, board_of, read_standing
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Leaving,
    Measured,
    Measuring,
    Progress,
    Reused,
    Started,
    Task,
)
from results import CodeVersion, Machine, Run, Store, Subject, open_store
from results.store.leases import this_process

NOW = datetime(2026, 5, 4, 22, 10)
LONGEST = "sparsity_constrained_expert_choice"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
MACHINE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={})


class RunOfAStudy:
    """A run of this process as its database shows it, and a clock: trials a, b and a second a."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, request: Any = None) -> None:
        self.store, self.seconds = store, 0.0
        self.began = datetime.now(UTC) - timedelta(minutes=10)
        for module in ("leases", "write"):
            monkeypatch.setattr(f"results.store.{module}.now", self.now)
        self.made_by = store.machine(MACHINE), store.code_version(CODE)
        self.study = store.study(
            "tiny", {"suites": {"accuracy": {}, "speed": {}}, **(request or {})}
        )
        self.leases: dict[int, int] = {}

    def begin(self, jobs: int = 1) -> None:
        self.run = self.store.start_run(self.study, Run(*this_process(), command="", jobs=jobs))

    def now(self, _session: object = None) -> datetime:
        return self.began + timedelta(seconds=self.seconds)

    def trial(self, router: str, seed: int = 0) -> int:
        described = {**described_as(router), "seed": seed}
        row = self.store.trials([Subject(f"{router}{seed}".ljust(64, "f"), described)])[0]
        self.store.add_trial_to_study(self.study, row)
        return row

    def layer(self, router: str) -> int:
        row = self.store.layers([Subject(f"{router}layer".ljust(64, "f"), described_as(router))])[0]
        self.store.add_layer_to_study(self.study, row)
        return row

    def train(self, trial: int, **progress: Any) -> int:
        attempt = self.store.begin_attempt(trial, *self.made_by, None)
        self.work_on(trial, doing="training", **progress)
        return attempt

    def work_on(self, trial: int, **progress: Any) -> None:
        lease = self.store.lease(self.run, trial_id=trial)
        assert lease is not None
        self.leases[trial] = lease
        self.store.heartbeat(self.run, {lease: progress})

    def release(self, trial: int) -> None:
        self.store.release(self.leases[trial])

    def end(self, attempt: int, status: str, seconds: float = 1.0) -> None:
        done = {"checkpoint": "c"} if status == "done" else {}
        self.store.finish_attempt(attempt, status, seconds=seconds, **done)  # type: ignore[arg-type]

    def measure(self, suite: str, seconds: float, **subject: int) -> None:
        self.store.record_measurement(suite, {}, "", *self.made_by, seconds=seconds, **subject)

    def board(self) -> Board:
        return board_of(replace(read_standing(self.store, "tiny"), now=self.now()))


def described_as(router: str) -> dict[str, Any]:
    return {
        "router": {"name": router, "options": {}},
        "experts": {"name": "mlp", "num_experts": 8},
        "model": {"name": "vit"},
        "data": {"name": "digits"},
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "bench.db") as opened:
        yield opened


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch) -> RunOfAStudy:
    return RunOfAStudy(store, monkeypatch)


def drawn(board: Board, room: int = 20) -> list[str]:
    out = StringIO()
    Console(file=out, width=80, force_terminal=True).print(show_board(board, NOW, 80, room))
    return SEQUENCE.sub("", out.getvalue()).splitlines()


def test_trials_are_counted_by_status(run: RunOfAStudy) -> None:
    earlier, a, b, c = (run.trial(*each) for each in (("d",), ("a",), ("b",), ("a", 1)))
    run.end(run.store.begin_attempt(earlier, *run.made_by, None), "done")
    run.seconds = 1
    run.begin(jobs=2)
    assert run.board().status() == "1 of 4 trials done, 3 waiting"
    attempts = run.train(a), run.train(b)
    assert run.board().status() == "1 of 4 trials done, 2 running, 1 waiting"
    run.end(attempts[0], "done")
    run.end(attempts[1], "out_of_memory")
    run.release(b)
    assert run.board().status() == "2 of 4 trials done, 1 out of memory, 1 waiting"
    run.end(run.train(c), "diverged")
    assert run.board().status() == "2 of 4 trials done, 1 diverged, 1 out of memory"


def test_the_remaining_time_is_estimated_from_the_run_itself(run: RunOfAStudy) -> None:
    a, *_ = (run.trial(*each) for each in (("a",), ("b",), ("a", 1)))
    layers = run.layer("a"), run.layer("b")
    run.begin()
    attempt = run.train(a)
    assert run.board().left is None
    run.seconds = 30
    run.work_on(a, doing="training", step=10, steps=40, seconds=30.0)
    board = run.board()
    assert board.left == 90 + 120 + 120  # nothing has been measured yet
    assert board.rate == pytest.approx(3600 * 0.25 / 30)
    run.seconds = 100
    run.end(attempt, "done", 100)
    run.measure("accuracy", 8, attempt_id=attempt)
    run.release(a)
    board = run.board()
    assert board.left == 108 + 108
    assert board.rate == pytest.approx(36)
    run.measure("speed", 5, layer_id=layers[0])
    board = run.board()
    assert board.left == 108 + 108 + 5
    assert board.layers == (1, 2)


def test_earlier_trials_on_the_machine_give_the_first_estimate(run: RunOfAStudy) -> None:
    earlier, a, b, _ = (run.trial("a", seed) for seed in (7, 0, 1, 2))
    attempt = run.store.begin_attempt(earlier, *run.made_by, None)
    run.end(attempt, "done", 40)
    run.measure("accuracy", 2, attempt_id=attempt)
    run.seconds = 1
    run.begin(jobs=2)
    assert run.board().left == 84  # two side by side, then the third
    first, _ = run.train(a), run.train(b)
    run.end(first, "done", 10)
    run.release(a)
    # The two that are left count as the run's own first trial, which is still to be measured.
    assert run.board().left == 2 + 10 + 2


def test_an_ongoing_measurement_is_counted_down(run: RunOfAStudy) -> None:
    earlier, a = run.trial("a"), run.trial("a", 1)
    for trial in (earlier, a):
        attempt = run.store.begin_attempt(trial, *run.made_by, None)
        run.end(attempt, "done", 40)
        if trial == earlier:
            run.measure("accuracy", 20, attempt_id=attempt)
    run.seconds = 1
    run.begin()
    run.work_on(a, doing="accuracy", since=run.now().timestamp())
    run.seconds += 15
    assert run.board().left == 5
    run.seconds += 15  # longer than any before
    assert run.board().left == 0


def test_the_board_shows_what_each_worker_does(run: RunOfAStudy) -> None:
    a, b, _ = (run.trial(*each) for each in (("a",), ("b",), ("a", 1)))
    run.begin(jobs=2)
    attempt = run.train(a, step=10, steps=40, loss=1.5, accuracy=0.7, seconds=30.0)
    assert run.board().workers == (("a", "0", "10/40", "1.500", "70.0", "1 min 30 s"),)
    run.end(attempt, "done", 100)
    run.work_on(a, doing="entropy", since=run.now().timestamp())
    interrupted = run.train(b)
    board = run.board()
    assert [cells[2] for cells in board.workers] == ["entropy", "training"]
    assert board.worth == 1  # a trial being measured is already trained
    run.end(interrupted, "interrupted")
    for trial in (a, b):
        run.release(trial)
    board = run.board()
    assert board.workers == ()
    assert board.status() == "1 of 3 trials done, 1 interrupted, 1 waiting"


def test_trials_that_a_tuning_has_yet_to_draw_count_as_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunOfAStudy(store, monkeypatch, {"suites": {}, "tuning": {"seed": 0, "trials": 4}})
    first, _ = run.trial("a"), run.trial("b")
    run.begin()
    assert run.board().status() == "0 of 4 trials done, 4 waiting"
    run.seconds = 50
    run.end(run.store.begin_attempt(first, *run.made_by, None), "done", 50)
    assert run.board().left == 3 * 50
    run.store.finish_run(run.run)
    assert run.board().status() == "1 of 2 trials done, 1 waiting"


def test_leases_are_read_each_time_and_the_whole_study_only_rarely(
    run: RunOfAStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, seconds = 0, 100.0

    def reading(store: Store, study: str) -> Any:
        nonlocal readings, seconds
        readings += 1
        seconds += 0.5
        return read_standing(store, study)

    monkeypatch.setattr("bench.cli.standing.read_standing", reading)
    monkeypatch.setattr("bench.cli.standing.time", SimpleNamespace(monotonic=lambda: seconds))
    a = run.trial("a")
    run.begin()
    monitor = Monitor(run.store, "tiny")
    assert monitor.read().leases == ()
    run.train(a, step=1, steps=2)
    seconds += 9
    assert monitor.read().leases[0].progress["step"] == 1
    assert readings == 1
    seconds += 1.5
    monitor.read()
    assert readings == 2


def test_a_board_fits_into_a_terminal_with_any_number_of_workers() -> None:
    long = f"{LONGEST} experts.num_experts=1024 train.lr=0.001"
    progress = {"step": 120_000, "steps": 464_000, "loss": 12.345, "accuracy": 1.0}
    many = (worker_cells(long, 12, progress, 45_000),) * 50
    counts = {"done": 1000, "failed": 10, "out_of_memory": 11, "interrupted": 5, "waiting": 900}
    board = Board({**counts, "running": 50}, 1021.5, (3, 80), 1234.0, 300_000, many)
    lines = drawn(board, room=10)
    assert max(map(len, lines)) <= 80
    assert lines[-1].strip() == "and 40 more"
    assert lines[-2].split()[1:] == [
        "12",
        "120000/464000",
        "12.345",
        "100.0",
        "12",
        "h",
        "30",
        "min",
    ]
    assert lines[-2].startswith(LONGEST[:20])
    ends = r"1234 trials/h, ends Fri 09:30 \S+ \(in 83 h 20 min\)"
    assert re.search(ends, "\n".join(lines))


def test_a_study_of_layers_alone_shows_no_trials() -> None:
    board = Board({}, 0, (1, 4), None, None, (worker_cells("a", None, {"doing": "speed"}, None),))
    assert board.line(NOW) == "1 of 4 layers"
    assert "25 %" in drawn(board)[1]


def steps_of(run: RunOfAStudy) -> Iterator[list[Event]]:
    """Yield a run's events and update its database: one trial is done, one fails in colours."""
    ugly = "RuntimeError: \x1b[31mbad\x1b[0m\tthing\nsecond line"
    a, b = Task("a", 0, 1, 3), Task("b", 0, 2, 3)
    rows = run.trial("a"), run.trial("b")
    run.end(run.store.begin_attempt(run.trial("c"), *run.made_by, None), "done")
    run.layer("a")
    run.seconds = 1
    run.begin()
    yield [Begun(3)]
    attempt = run.train(rows[0], step=20, steps=40, loss=1.5, accuracy=0.71, seconds=60.0)
    yield [Started(a, "new"), Progress(a, 20, 40, 1.5, 0.71, 2, 60.0)]
    run.end(attempt, "done", 120)
    run.release(rows[0])
    yield [Ended(a, "done", 120.0), Measuring(a, "accuracy"), Measured(a, "accuracy", "done", 2.0)]
    yield [Started(b, "new"), Ended(b, "failed", 1.0, ugly)]
    layer = Task("a", None, 1, 1)
    yield [Measuring(layer, "speed"), Measured(layer, "speed", "done", 3.0), Leaving("Ctrl-C")]


def test_output_in_a_file_is_plain_lines(run: RunOfAStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seconds = StringIO(), 1000.0
    monkeypatch.setattr("bench.cli.live.time", SimpleNamespace(monotonic=lambda: seconds))
    with Display(run.store, "tiny", Console(file=out, width=80, highlight=False)) as display:
        for events in steps_of(run):
            for event in events:
                seconds += PLAIN_SECONDS if isinstance(event, Progress) else 1
                display(event)
    assert not CONTROL.search(out.getvalue())
    first, *lines = out.getvalue().splitlines()
    assert first == "1 of 3 trials done, 2 waiting, 0 of 1 layer"
    assert lines[0] == "1/3  a  seed 0  training  new"
    assert re.match(
        r"1 of 3 trials done, 1 running, 1 waiting, 0 of 1 layer; [\d.]+ trials/h, ends ", lines[1]
    )
    assert lines[2:] == [
        "1/3  a  seed 0  done  trained in 2 min 00 s",
        "2/3  b  seed 0  training  new",
        "2/3  b  seed 0  failed  RuntimeError: bad thing",
        "1/1  a  done  speed in 3.0 s",
        "stopping: Ctrl-C; running trials save their state",
    ]


def test_on_a_terminal_finished_trials_scroll_above_the_board(run: RunOfAStudy) -> None:
    out = StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, highlight=False)

    def shown() -> list[str]:
        return SEQUENCE.sub("", out.getvalue().replace("\r", "\n")).splitlines()

    with Display(run.store, "tiny", console) as display:
        for number, events in enumerate(steps_of(run)):
            for event in events:
                display(event)
            board = "1 of 3 trials done, 2 waiting, 0 of 1 layer"
            while number == 0 and board not in shown():
                time.sleep(0.01)
    assert max(map(len, shown())) <= 80
    assert "1/3  a  seed 0  done  trained in 2 min 00 s" in shown()
    assert "2/3  b  seed 0  failed  RuntimeError: bad thing" in shown()
    assert not any("training  new" in line for line in shown())


def test_a_run_with_nothing_left_to_do_prints_no_line(run: RunOfAStudy) -> None:
    out = StringIO()
    with Display(run.store, "tiny", Console(file=out, width=80)) as display:
        display(Begun(0))
        display(Reused(Task("a", 0, 1, 1), "done", "same"))
    assert out.getvalue() == ""
