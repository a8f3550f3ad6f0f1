"""Jobs, one a trial and one a bare layer: what is to be done, where, when, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.execute.events import Reused, Task
from bench.plan import Decision, Plan, Planned, PlannedSuite
from results.forecasts import Kind, Work


@dataclass(frozen=True)
class Job:
    """The training of a trial, unless it is reused, then the measurements that are due.

    A bare layer is only measured.
    """

    planned: Planned
    decision: Decision
    task: Task

    @property
    def is_layer(self) -> bool:
        """Whether a bare layer is measured."""
        return self.task.seed is None

    @property
    def fingerprint(self) -> str:
        """The trial's or layer's fingerprint."""
        return self.planned.fingerprint.value

    @property
    def parent(self) -> str | None:
        """The fingerprint of the trial that a derived one starts from."""
        return self.planned.fingerprint.parent

    @property
    def due(self) -> tuple[PlannedSuite, ...]:
        """The suites that are to measure it."""
        return self.decision.due

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decision.train and not self.due

    @property
    def work(self) -> Work:
        """The work left to do, as a forecast counts it."""
        kind = Kind.of(self.planned.fingerprint.description)
        work = Work(self.fingerprint, kind, tuple(suite.name for suite in self.due))
        if self.is_layer:
            return replace(work, layer=True)
        return replace(work, trained=float(not self.decision.train), after=self.parent)

    @property
    def reused(self) -> Reused | None:
        """The event that its last attempt is reused, where there is one."""
        done = self.decision.attempt
        return None if done is None else Reused(self.task, done.status, self.decision.reason)

    def without(self, suites: Collection[str]) -> Job:
        """Return the same job without these suites."""
        due = tuple(suite for suite in self.due if suite.name not in suites)
        return replace(self, decision=replace(self.decision, due=due))


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
        yield Job(planned, decision, task)
    for number, (planned, suites) in enumerate(zip(plan.layers, due, strict=True), 1):
        task = Task(planned.label, None, number, len(plan.layers))
        yield Job(planned, Decision(False, "", suites), task)


@dataclass(eq=False)
class Item:
    """A job in the queue, or that was in it.

    Attributes:
        announced: whether it was emitted that another run holds it.
        crashed: suites that ended their process in this run.
    """

    job: Job
    not_before: float = 0.0
    announced: bool = False
    crashed: set[str] = field(default_factory=set)


def first_ready(queue: Sequence[Item], active: Sequence[Job], here: Sequence[Job]) -> Item | None:
    """Return the first item that may begin now on a device.

    A bare layer, which is timed, has its device alone; a derived trial waits for its parent.

    Args:
        active: the jobs that are done anywhere now.
        here: those of them on that device.
    """
    if any(job.is_layer for job in here):
        return None
    unfinished = {job.fingerprint for job in [*(item.job for item in queue), *active]}
    for item in queue:
        ready = not here if item.job.is_layer else item.job.parent not in unfinished
        if ready and item.not_before <= time.monotonic():
            return item
    return None


def drop_children(queue: list[Item], fingerprint: str) -> None:
    """Remove what is derived from an interrupted trial: the next run continues it."""
    for item in [item for item in queue if item.job.parent == fingerprint]:
        queue.remove(item)
        drop_children(queue, item.job.fingerprint)
