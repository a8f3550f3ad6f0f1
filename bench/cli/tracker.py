"""What the events of a run amount to so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bench.cli.board import UNDER_WAY, Board, Worker
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
from bench.forecast import Kind, Pace, Seen, Work, forecast


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
                told = Worker(task.name, task.seed, "training", step, steps, loss, accuracy)
                self._now_does(task, told, seconds)
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
        """How the run stands now."""
        running = [self._now_left(task) for task in self._active if task.seed is not None]
        pace = Pace(self._seen, self._earlier, running)
        counts = self._settled + Counter(
            "running" if task in self._active else status for task, status in self._statuses.items()
        )
        waiting = [
            self._work_of(task)
            for task, status in self._statuses.items()
            if status == "waiting" and task not in self._active
        ]
        layers = [self._now_left(task) for task in self._works if task.seed is None]
        measured = sum(task.seed is None and task not in self._active for task in self._measured)
        ends = forecast([*running, *waiting, *layers], pace, max(self._jobs, len(running)))
        fresh = self._fresh()
        return Board(
            counts,
            self._settled.total() + fresh,
            (measured, self._layers),
            self._rate(fresh),
            None if ends is None else ends.whole,
            self._workers(pace),
        )

    def _now_does(self, task: Task, worker: Worker, training: float = 0.0) -> None:
        self._active[task] = Active(worker, training, self._clock())

    def _work_of(self, task: Task) -> Work:
        """What there was to do when the run began."""
        return self._works.get(task) or Work(str(task), Kind(task.name), layer=task.seed is None)

    def _now_left(self, task: Task) -> Work:
        """What is left to do of it."""
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

    def _fresh(self) -> float:
        """Trials that this run brought through, and of those under way the share trained."""
        through = sum(
            status not in UNDER_WAY and task not in self._active
            for task, status in self._statuses.items()
        )
        return through + sum(
            self._now_left(task).trained for task in self._active if task.seed is not None
        )

    def _rate(self, fresh: float) -> float | None:
        """Trials an hour."""
        elapsed = self._clock() - self._begun
        return 3600 * fresh / elapsed if fresh and elapsed > 0 else None

    def _workers(self, pace: Pace) -> tuple[Worker, ...]:
        return tuple(
            active.worker
            if task.seed is None
            else replace(active.worker, left=pace.left(self._now_left(task)) or None)
            for task, active in self._active.items()
        )
