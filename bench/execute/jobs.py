"""Jobs, one a trial and one a bare layer: what is to be done, where, and how it ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.execute.events import Reused, Task
from bench.forecast import Kind, Work
from bench.plan import Plan, Planned, PlannedSuite
from bench.reuse import Decision


@dataclass(frozen=True)
class TrialJob:
    """Train a trial, or reuse it, then measure what is due."""

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
        """What a forecast takes of it."""
        trained, parent = float(not self.decision.train), self.planned.fingerprint.parent
        return replace(_work_of(self.planned, self.due), trained=trained, after=parent)

    @property
    def reused(self) -> Reused | None:
        """That its last attempt stands, where one does."""
        done = self.decision.attempt
        return None if done is None else Reused(self.task, done.status, self.decision.reason)

    def without(self, suites: Collection[str]) -> TrialJob:
        """The same, not measured by these suites."""
        return replace(self, decision=replace(self.decision, due=_others(self.due, suites)))


@dataclass(frozen=True)
class LayerJob:
    """Measure a bare layer."""

    planned: Planned
    due: tuple[PlannedSuite, ...]
    task: Task

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.due

    @property
    def work(self) -> Work:
        """What a forecast takes of it."""
        return replace(_work_of(self.planned, self.due), layer=True)

    def without(self, suites: Collection[str]) -> LayerJob:
        """The same, not measured by these suites."""
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
    """How a worker finished its job.

    Attributes:
        status: of the training; None where there was none.
        leave: why the whole run is to end, where it is.
    """

    status: str | None = None
    leave: str | None = None


def jobs_of(
    plan: Plan, decisions: Sequence[Decision], due: Sequence[tuple[PlannedSuite, ...]]
) -> Iterator[Job]:
    """In the order of the plan: trials first, then layers.

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
