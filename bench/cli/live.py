"""A run as it happens: what ends as lines and, on a terminal, what goes on below them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bench.cli.board import AROUND_WORKERS, UNDER_WAY, Board, Worker, make_board, show_board
from bench.cli.display import duration, first_line
from bench.execute import (
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


@dataclass(frozen=True)
class Active:
    """A trial or layer under way, and when it came to what it does now."""

    worker: Worker
    training: float
    since: float


class Tracker:
    """A listener to a run's events that can make a board of it at any time.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._settled: Counter[str] = Counter()
        self._statuses: dict[Task, str] = {}
        self._active: dict[Task, Active] = {}
        self._works: Mapping[Task, Work] = {}
        self._earlier, self._seen = Seen(), Seen()
        self._measured: dict[Task, set[str]] = {}
        self._layers = 0
        self._jobs = 1

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case Begun(trials, reused, layers, jobs, works, earlier):
                self._begun = self._clock()
                self._settled["done"] = reused
                self._statuses = dict.fromkeys(trials, "waiting")
                self._layers, self._jobs = layers, jobs
                self._works, self._earlier = works, earlier
            case Waiting(task, _, False) if task in self._statuses:
                self._statuses[task] = "elsewhere"
            case Reused(task, status) if task in self._statuses:
                self._statuses[task] = status
            case Reused(_, status) if status != "done":
                self._settled[status] += 1
                self._settled["done"] -= 1
            case Started(task):
                self._now_does(task, Worker(task.name, task.seed, "training"))
            case Progress(task, step, steps, loss, accuracy, _, seconds):
                worker = Worker(task.name, task.seed, "training", step, steps, loss, accuracy)
                self._now_does(task, worker, seconds)
            case Ended(task, status, seconds):
                self._active.pop(task, None)
                self._statuses[task] = status
                if status == "done":
                    self._seen.add_training(self._work_of(task).kind, seconds)
            case Measuring(task, suite):
                self._now_does(task, Worker(task.name, task.seed, suite))
            case Measured(task, suite, status, seconds):
                self._active.pop(task, None)
                if status != "interrupted":
                    work = self._work_of(task)
                    skipped = status == "skipped"
                    self._seen.add_measurement(work.kind, suite, work.layer, seconds, skipped)
                    self._measured.setdefault(task, set()).add(suite)

    def board(self) -> Board:
        """Return how the run stands now."""
        counts = self._settled + Counter(
            "running" if task in self._active else status for task, status in self._statuses.items()
        )
        waiting = [
            task
            for task in (*self._statuses, *(task for task in self._works if task.seed is None))
            if task not in self._active and self._statuses.get(task, "waiting") == "waiting"
        ]
        measured = sum(task.seed is None and task not in self._active for task in self._measured)
        fresh = sum(status not in UNDER_WAY for status in self._statuses.values())
        return make_board(
            counts,
            (measured, self._layers),
            [(active.worker, self._now_left(task)) for task, active in self._active.items()],
            list(map(self._now_left, waiting)),
            self._seen,
            self._earlier,
            jobs=self._jobs,
            ended=self._settled.total() + fresh,
            fresh=fresh,
            seconds=self._clock() - self._begun,
        )

    def _now_does(self, task: Task, worker: Worker, training: float = 0.0) -> None:
        self._active[task] = Active(worker, training, self._clock())

    def _work_of(self, task: Task) -> Work:
        """Return what there was to do of a task when the run began."""
        return self._works.get(task) or Work(str(task), Kind(task.name), layer=task.seed is None)

    def _now_left(self, task: Task) -> Work:
        """Return what is left to do of a task."""
        work, active = self._work_of(task), self._active.get(task)
        measured = self._measured.get(task, ())
        work = replace(work, suites=tuple(suite for suite in work.suites if suite not in measured))
        if active is None:
            return work
        worker = active.worker
        if worker.doing == "training":
            done = worker.step / max(worker.steps, 1)
            return replace(work, trained=done, training=active.training)
        return replace(work, trained=1.0, measuring=self._clock() - active.since)


COLOURS = {
    "done": "green",
    "skipped": "dim",
    "interrupted": "yellow",
    "pruned": "yellow",
    "waiting": "dim",
}

REFRESH_SECONDS = 0.25
"""Seconds between two redraws: timings may run at the same time."""

PLAIN_SECONDS = 300
"""Seconds between two lines of how the run stands, where there is no terminal."""


class Display:
    """A listener to a run's events that shows them; in a pipe or a file, as plain lines alone.

    Args:
        console: where to; standard output where None.
        clock: seconds that only grow.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._tracker = Tracker(clock)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._last_line = clock()
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._board
        )
        self._painter = threading.Thread(target=self._paint, daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._painter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the display."""
        self._closed.set()
        self._changed.set()
        if self._painter.is_alive():
            self._painter.join()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            self._tracker(event)
        self._line(event)
        self._changed.set()
        if not self._console.is_terminal:
            self._overall(event)

    def _line(self, event: Event) -> None:
        match event:
            case Started(task, reason) if not self._console.is_terminal:
                self._print(task, "training", reason)
            case Leaving(reason):
                line = f"leaving: {reason}; what goes on saves what it has"
                self._console.print(Text(line, "yellow"), soft_wrap=True)
            case Waiting(task, holder, machine):
                why = "for the machine, which is in use" if machine else "another run works on it"
                self._print(task, "waiting", f"{why}: {holder}")
            case Reused(task, status, reason) if status != "done":
                self._print(task, status, reason)
            case Ended(task, status, seconds, error):
                self._print(task, status, error or f"trained in {duration(seconds)}")
            case Measured(task, suite, status, seconds, error):
                # What belongs to a trained trial is part of its line, unless it fails.
                if task.seed is None or status == "failed":
                    text = f"{suite}: {error}" if error else f"{suite} in {duration(seconds)}"
                    self._print(task, status, text)

    def _print(self, task: Task, status: str, text: str) -> None:
        seed = "" if task.seed is None else f"  seed {task.seed}"
        place = f"{task.number:>{len(str(task.total))}}/{task.total}"
        line = Text(f"{place}  {task.name}{seed}  ", no_wrap=True, overflow="ellipsis")
        line.append(status.replace("_", " "), COLOURS.get(status, "bold red"))
        line.append(f"  {first_line(text)}")
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _overall(self, event: Event) -> None:
        """Print how the whole run stands, at its beginning and every few minutes."""
        due = self._clock() - self._last_line >= PLAIN_SECONDS
        if due or (isinstance(event, Begun) and (event.trials or event.layers)):
            self._last_line = self._clock()
            line = self._tracker.board().line(datetime.now())
            self._console.print(Text(line), soft_wrap=True)

    def _board(self) -> RenderableType:
        with self._lock:
            board = self._tracker.board()
        if not board.total and not board.layers[1]:
            return Text("")
        room = max(self._console.height - AROUND_WORKERS, 1)
        return show_board(board, datetime.now(), self._console.width, room)

    def _paint(self) -> None:
        """Draw what changed, at most every `REFRESH_SECONDS`."""
        while not self._closed.wait(REFRESH_SECONDS):
            self._changed.wait()
            self._changed.clear()
            self._live.refresh()
