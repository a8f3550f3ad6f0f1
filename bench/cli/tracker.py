"""What the events of a run amount to so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.cli.board import UNDER_WAY, Board, Worker
from bench.eta import Job, Pace
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Measured,
    Measuring,
    Progress,
    Reused,
    Started,
    Task,
    Waiting,
)


@dataclass(frozen=True)
class Active:
    """A trial or layer under way, and when it came to what it does now."""

    worker: Worker
    training: float
    since: float


class Tracker:
    """Listens to a run, and makes a board of it at any time.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._settled: Counter[str] = Counter()
        self._statuses: dict[Task, str] = {}
        self._active: dict[Task, Active] = {}
        self._trained: dict[Task, float] = {}
        self._measured: dict[Task, float] = {}
        self._layers = 0
        self._jobs = 1

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case Begun(trials, reused, layers, jobs):
                self._begun = self._clock()
                self._settled["done"] = reused
                self._statuses = dict.fromkeys(trials, "waiting")
                self._layers, self._jobs = layers, jobs
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
                told = Worker(task.name, task.seed, "training", step, steps, loss, accuracy)
                self._now_does(task, told, seconds)
            case Ended(task, status, seconds):
                self._active.pop(task, None)
                self._statuses[task] = status
                if status == "done":
                    self._trained[task] = seconds
            case Measuring(task, suite):
                self._now_does(task, Worker(task.name, task.seed, suite))
            case Measured(task, _, status, seconds):
                self._active.pop(task, None)
                if status != "interrupted":
                    self._measured[task] = self._measured.get(task, 0.0) + seconds

    def board(self) -> Board:
        """How the run stands now."""
        pace, running = self._pace(), [task for task in self._active if task.seed is not None]
        counts = self._settled + Counter(
            "running" if task in self._active else status for task, status in self._statuses.items()
        )
        waiting = [
            task.name
            for task, status in self._statuses.items()
            if status == "waiting" and task not in self._active
        ]
        measured = sum(task.seed is None and task not in self._active for task in self._measured)
        left = pace.left(
            [self._job(task) for task in running],
            waiting,
            [""] * max(self._layers - measured, 0),
            self._jobs,
        )
        fresh = self._fresh()
        return Board(
            counts,
            self._settled.total() + fresh,
            (measured, self._layers),
            self._rate(fresh),
            left,
            self._workers(pace),
        )

    def _now_does(self, task: Task, worker: Worker, training: float = 0.0) -> None:
        self._active[task] = Active(worker, training, self._clock())

    def _pace(self) -> Pace:
        pace = Pace()
        for task, seconds in self._trained.items():
            pace.training.add(task.name, seconds)
        for task, seconds in self._measured.items():
            if task not in self._active:
                (pace.layers if task.seed is None else pace.measuring).add(task.name, seconds)
        return pace

    def _job(self, task: Task) -> Job:
        active = self._active[task]
        if active.worker.doing == "training":
            worker = active.worker
            return Job(task.name, worker.step / max(worker.steps, 1), active.training)
        spent = self._measured.get(task, 0.0) + self._clock() - active.since
        return Job(task.name, trained=1.0, measuring=spent)

    def _fresh(self) -> float:
        """Trials that this run brought through, and of those under way the share trained."""
        through = sum(
            status not in UNDER_WAY and task not in self._active
            for task, status in self._statuses.items()
        )
        return through + sum(
            self._job(task).trained for task in self._active if task.seed is not None
        )

    def _rate(self, fresh: float) -> float | None:
        """Trials an hour."""
        elapsed = self._clock() - self._begun
        return 3600 * fresh / elapsed if fresh and elapsed > 0 else None

    def _workers(self, pace: Pace) -> tuple[Worker, ...]:
        return tuple(
            active.worker
            if task.seed is None
            else replace(active.worker, left=pace.of(self._job(task)) or None)
            for task, active in self._active.items()
        )
