"""Jobs, one a trial and one a bare layer: what is to be done, where, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.execute.events import Reused, Task
from bench.plan import Decision, Plan, Planned, PlannedSuite
from results.forecasts import Kind, Work


@dataclass(frozen=True)
class TrialJob:
    """The training of a trial, unless it is reused, then the measurements that are due."""

    planned: Planned
    decision: Decision
    task: Task

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decision.train and not self.due

    @property
    def due(self) -> tuple[PlannedSuite, ...]:
        """The suites that are to measure it."""
        return self.decision.due

    @property
    def work(self) -> Work:
        """The work left to do on this trial, as a forecast counts it."""
        trained, parent = float(not self.decision.train), self.planned.fingerprint.parent
        return replace(_work_of(self.planned, self.due), trained=trained, after=parent)

    @property
    def reused(self) -> Reused | None:
        """The event that its last attempt is reused, where there is one."""
        done = self.decision.attempt
        return None if done is None else Reused(self.task, done.status, self.decision.reason)

    def without(self, suites: Collection[str]) -> TrialJob:
        """Return the same job without these suites."""
        return replace(self, decision=replace(self.decision, due=_others(self.due, suites)))


@dataclass(frozen=True)
class LayerJob:
    """The measurements of a bare layer."""

    planned: Planned
    due: tuple[PlannedSuite, ...]
    task: Task

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.due

    @property
    def work(self) -> Work:
        """The work left to do on this bare layer, as a forecast counts it."""
        return replace(_work_of(self.planned, self.due), layer=True)

    def without(self, suites: Collection[str]) -> LayerJob:
        """Return the same job without these suites."""
        return replace(self, due=_others(self.due, suites))


Job = TrialJob | LayerJob


@dataclass(frozen=True)
class Assignment:
    """One job for one worker.

    Attributes:
        row: of the trial or layer.
        attempt: row of the attempt that has begun; None where nothing is to be trained.
        device: where it works, see `devices`.
        log: file of the attempt's or measurement's output.
    """

    job: Job
    row: int
    attempt: int | None
    device: str
    log: Path


@dataclass(frozen=True)
class Result:
    """The end of a job that its worker finished.

    Attributes:
        status: of the training; None where there was none.
        leave: why the whole run is to end, where it is.
    """

    status: str | None = None
    leave: str | None = None


def jobs_of(
    plan: Plan, decisions: Sequence[Decision], due: Sequence[tuple[PlannedSuite, ...]]
) -> Iterator[Job]:
    """Yield jobs in the order of the plan: trials first, then layers.

    Args:
        decisions: of each trial.
        due: the suites that are to measure each layer.
    """
    for number, (planned, decision) in enumerate(zip(plan.trials, decisions, strict=True), 1):
        task = Task(planned.label, planned.spec.seed, number, len(plan.trials))
        yield TrialJob(planned, decision, task)
    for number, (planned, suites) in enumerate(zip(plan.layers, due, strict=True), 1):
        task = Task(planned.label, None, number, len(plan.layers))
        yield LayerJob(planned, suites, task)


def _work_of(planned: Planned, due: Sequence[PlannedSuite]) -> Work:
    fingerprint = planned.fingerprint
    suites = tuple(suite.name for suite in due)
    return Work(fingerprint.value, Kind.of(fingerprint.description), suites)


def _others(due: Sequence[PlannedSuite], suites: Collection[str]) -> tuple[PlannedSuite, ...]:
    return tuple(suite for suite in due if suite.name not in suites)


@dataclass(eq=False)
class Item:
    """A job that waits, or waited."""

    job: Job
    not_before: float = 0.0
    announced: bool = False
    """Whether it was emitted that another run holds it."""
    crashed: set[str] = field(default_factory=set)
    """Suites that ended their process in this run."""

    @property
    def fingerprint(self) -> str:
        return self.job.planned.fingerprint.value

    @property
    def parent(self) -> str | None:
        return self.job.planned.fingerprint.parent

    @property
    def is_timing(self) -> bool:
        return isinstance(self.job, LayerJob)


class Queue:
    """Items in the order of the plan."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._items = [Item(job) for job in jobs]

    def __bool__(self) -> bool:
        return bool(self._items)

    def __contains__(self, item: Item) -> bool:
        return item in self._items

    def next(self, working: Sequence[Item], here: Sequence[Item]) -> Item | None:
        """Return the first that may begin now on a device; it stays in the queue.

        Args:
            working: what is at work anywhere.
            here: what of it is at work on that device.
        """
        if any(item.is_timing for item in here):
            return None
        unfinished = {item.fingerprint for item in [*self._items, *working]}
        for item in self._items:
            if item.not_before > time.monotonic():
                continue
            if not here if item.is_timing else item.parent not in unfinished:
                return item
        return None

    def add(self, jobs: Iterable[Job]) -> None:
        """Add jobs that were not known before."""
        self._items += map(Item, jobs)

    def put_first(self, item: Item) -> None:
        """Put back an item of which a part is left."""
        self._items.insert(0, item)

    def remove(self, item: Item) -> None:
        """Remove an item that begins, or has no need to."""
        self._items.remove(item)

    def drop_children(self, fingerprint: str) -> None:
        """Remove what is derived from an interrupted trial: the next run continues it."""
        for item in [item for item in self._items if item.parent == fingerprint]:
            self._items.remove(item)
            self.drop_children(item.fingerprint)
