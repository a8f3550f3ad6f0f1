"""What a run looks like while it goes on, on a terminal and in a file."""

from __future__ import annotations

import re
import time
from datetime import datetime
from io import StringIO

import pytest
from rich.console import Console

from bench.cli.board import Board, Worker, show_board, worker_lines
from bench.cli.live import PLAIN_SECONDS, Display, Tracker
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
    Waiting,
)
from results.forecasts import Kind, Seen, Work

NOW = datetime(2026, 5, 4, 22, 10)
LONGEST = "sparsity_constrained_expert_choice"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Clock:
    """Seconds that pass when they are told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def task(name: str, seed: int | None = 0, number: int = 1, total: int = 4) -> Task:
    return Task(name, seed, number, total)


A, B, C = task("a"), task("b", number=2), task("a", 1, number=3)


def listen(tracker: Tracker, *events: Event) -> Board:
    for event in events:
        tracker(event)
    return tracker.board()


def drawn(board: Board, room: int = 20) -> list[str]:
    out = StringIO()
    Console(file=out, width=80, force_terminal=True).print(show_board(board, NOW, 80, room))
    return SEQUENCE.sub("", out.getvalue()).splitlines()


def test_trials_are_counted_by_how_they_stand(clock: Clock) -> None:
    tracker = Tracker(clock)
    board = listen(tracker, Begun((A, B, C), reused=1, layers=0, jobs=2))
    assert board.status() == "1 of 4 trials done, 3 waiting"
    board = listen(tracker, Started(A, "new"), Started(B, "new"))
    assert board.status() == "1 of 4 trials done, 2 running, 1 waiting"
    board = listen(tracker, Ended(A, "done", 5), Ended(B, "out_of_memory", 1, "too large"))
    assert board.status() == "2 of 4 trials done, 1 out of memory, 1 waiting"
    board = listen(tracker, Measuring(A, "accuracy"), Waiting(C, "process 7 on node1"))
    assert board.status() == "1 of 4 trials done, 1 running, 1 out of memory, 1 in another run"
    board = listen(tracker, Measured(A, "accuracy", "done", 1), Reused(C, "done", "same"))
    assert board.status() == "3 of 4 trials done, 1 out of memory"
    assert board.left == 0


def test_a_trial_that_failed_long_ago_is_no_success(clock: Clock) -> None:
    board = listen(
        Tracker(clock),
        Begun((A,), reused=2, layers=0, jobs=1),
        Reused(B, "diverged", "it diverged"),
    )
    assert board.status() == "1 of 3 trials done, 1 diverged, 1 waiting"


def test_the_end_is_learnt_as_it_goes(clock: Clock) -> None:
    tracker, layers = Tracker(clock), (task("a", None, 1, 2), task("b", None, 2, 2))
    work = {
        each: Work(str(each), Kind(each.name), suites, layer=each in layers)
        for tasks, suites in (((A, B, C), ("accuracy",)), (layers, ("speed",)))
        for each in tasks
    }
    begun = Begun((A, B, C), 0, layers=2, jobs=1, works=work)
    assert listen(tracker, begun, Started(A, "new")).left is None
    clock.seconds = 30
    board = listen(tracker, Progress(A, 10, 40, 1.5, None, 0, 30.0))
    assert board.left == 90 + 120 + 120  # no layer was measured yet
    assert board.rate == pytest.approx(3600 * 0.25 / 30)
    clock.seconds = 100
    board = listen(
        tracker, Ended(A, "done", 100), Measuring(A, "accuracy"), Measured(A, "accuracy", "done", 8)
    )
    assert board.left == 108 + 108
    assert board.rate == pytest.approx(36)
    measured = Measured(layers[0], "speed", "done", 5)
    board = listen(tracker, Measuring(layers[0], "speed"), measured)
    assert board.left == 108 + 108 + 5
    assert board.layers == (1, 2)


def test_earlier_trials_of_the_machine_tell_the_end_of_a_run_that_begins(clock: Clock) -> None:
    earlier = Seen()
    earlier.add_training(Kind("a"), 40)
    earlier.add_measurement(Kind("a"), "accuracy", False, 2)
    work = {each: Work(str(each), Kind(each.name), ("accuracy",)) for each in (A, B, C)}
    tracker = Tracker(clock)
    board = listen(tracker, Begun((A, B, C), 0, 0, 2, work, earlier))
    assert board.left == 84  # two beside each other, then the third
    board = listen(tracker, Started(A, "new"), Started(B, "new"), Ended(A, "done", 10))
    assert board.left == 10 + 2  # B and C as the run's own first trial


def test_a_worker_says_what_it_does(clock: Clock) -> None:
    tracker = Tracker(clock)
    board = listen(tracker, Begun((A, B, C), 0, 0, 2), Progress(A, 10, 40, 1.5, 0.7, 1, 30.0))
    assert board.workers == (Worker("a", 0, "training", 10, 40, 1.5, 0.7, 90.0),)
    board = listen(tracker, Ended(A, "done", 100), Measuring(A, "entropy"), Started(B, "new"))
    assert [worker.doing for worker in board.workers] == ["entropy", "training"]
    lines = worker_lines(board.workers, 80)
    assert lines[1].split() == ["a", "0", "entropy"]
    assert board.worth == 1  # what is measured is trained
    board = listen(tracker, Measured(A, "entropy", "done", 2), Ended(B, "interrupted", 3))
    assert board.workers == ()
    assert board.status() == "1 of 3 trials done, 1 interrupted, 1 waiting"


def test_a_board_fits_a_terminal_with_any_number_of_workers() -> None:
    long = f"{LONGEST} experts.num_experts=1024 train.lr=0.001"
    many = tuple(
        Worker(long, 12, "training", 120_000, 464_000, 12.345, 1.0, 45_000) for _ in range(50)
    )
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


def test_a_study_of_layers_alone_has_no_trials_to_tell_of() -> None:
    board = Board({}, 0, (1, 4), None, None, (Worker("a", None, "throughput"),))
    assert board.line(NOW) == "1 of 4 layers"
    assert "25 %" in drawn(board)[1]


def events(clock: Clock) -> list[Event]:
    """A run: one trial is done, one fails with a colourful message."""
    ugly = "RuntimeError: \x1b[31mbad\x1b[0m\tthing\nsecond line"
    return [
        Begun((A, B), reused=1, layers=1, jobs=1),
        Started(A, "new"),
        Progress(A, 20, 40, 1.5, 0.71, 2, 60.0),
        Ended(A, "done", 120.0),
        Measuring(A, "accuracy"),
        Measured(A, "accuracy", "done", 2.0),
        Started(B, "new"),
        Ended(B, "failed", 1.0, ugly),
        Measuring(task("a", None, 1, 1), "speed"),
        Measured(task("a", None, 1, 1), "speed", "done", 3.0),
        Leaving("Ctrl-C"),
    ]


def test_in_a_file_there_are_plain_lines(clock: Clock) -> None:
    out = StringIO()
    with Display(Console(file=out, width=80, highlight=False), clock) as display:
        for event in events(clock):
            clock.seconds += PLAIN_SECONDS if isinstance(event, Progress) else 1
            display(event)
    assert not CONTROL.search(out.getvalue())
    first, *lines = out.getvalue().splitlines()
    assert first == "1 of 3 trials done, 2 waiting, 0 of 1 layer"
    assert lines[0] == "1/4  a  seed 0  training  new"
    assert lines[1].startswith(
        "1 of 3 trials done, 1 running, 1 waiting, 0 of 1 layer; 6.0 trials/h"
    )
    assert lines[2:] == [
        "1/4  a  seed 0  done  trained in 2 min 00 s",
        "2/4  b  seed 0  training  new",
        "2/4  b  seed 0  failed  RuntimeError: bad thing",
        "1/1  a  done  speed in 3.0 s",
        "leaving: Ctrl-C; what goes on saves what it has",
    ]


def test_on_a_terminal_what_ended_scrolls_and_the_board_is_below(clock: Clock) -> None:
    out = StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, highlight=False)

    def shown() -> list[str]:
        return SEQUENCE.sub("", out.getvalue().replace("\r", "\n")).splitlines()

    with Display(console, clock) as display:
        for event in events(clock)[:5]:
            display(event)
        board = "1 of 3 trials done, 1 running, 1 waiting, 0 of 1 layer"
        while board not in shown():
            time.sleep(0.01)
        for event in events(clock)[5:]:
            display(event)
    assert max(map(len, shown())) <= 80
    assert "1/4  a  seed 0  done  trained in 2 min 00 s" in shown()
    assert "2/4  b  seed 0  failed  RuntimeError: bad thing" in shown()
    assert not any("training  new" in line for line in shown())


def test_a_run_that_finds_everything_done_prints_no_line(clock: Clock) -> None:
    out = StringIO()
    with Display(Console(file=out, width=80), clock) as display:
        display(Begun((), reused=3, layers=0, jobs=1))
        display(Reused(A, "done", "same"))
    assert out.getvalue() == ""
