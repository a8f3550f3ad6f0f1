"""Jobs, one per trial and one per bare layer: their rows in the database and their results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.execute.context import RunContext, tail, trial_folder
from bench.execute.events import Reused, Task
from bench.plan import Decision, Plan, Planned, PlannedSuite, Reuse
from bench.train import discard_state
from results import Store
from results.forecasts import Kind, Work
from results.store.records import UNFINISHED, AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class Job:
    """The training of a trial, unless it is reused, and then the measurements that are due.

    A bare layer is only measured.
    """

    planned: Planned
    decision: Decision
    task: Task

    @property
    def is_layer(self) -> bool:
        """Whether the job measures a bare layer."""
        return self.task.seed is None

    @property
    def fingerprint(self) -> str:
        """The trial's or layer's fingerprint."""
        return self.planned.fingerprint.value

    @property
    def parent(self) -> str | None:
        """The fingerprint of the trial that a derived trial starts from."""
        return self.planned.fingerprint.parent

    @property
    def due(self) -> tuple[PlannedSuite, ...]:
        """The suites that still have to measure it."""
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
        """The event that the trial's last attempt is reused, or None."""
        done = self.decision.attempt
        return None if done is None else Reused(self.task, done.status, self.decision.reason)

    def without(self, suites: Collection[str]) -> Job:
        """Return the job without these suites."""
        due = tuple(suite for suite in self.due if suite.name not in suites)
        return replace(self, decision=replace(self.decision, due=due))


@dataclass(frozen=True)
class Assignment:
    """One job for one worker.

    Attributes:
        row: id of the row of the trial or layer.
        attempt: id of the row of the attempt that has begun; None if nothing is to be trained.
        device: the devices that the worker computes on, see `devices.slots`.
        log: file for the output of the attempt or measurement.
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
        status: status of the training; None if there was none.
        leave: why the whole run should end, if it should.
        cut: whether it was asked to stop before the last suite.
    """

    status: str | None = None
    leave: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class WorkerFailure:
    """A job whose worker ended without a result.

    Attributes:
        status: the status that the job's attempt gets.
        leave: why the whole run should end, if it should.
    """

    status: AttemptStatus
    error: str
    traceback: str | None = None
    leave: str | None = None


def jobs_of(
    plan: Plan, decisions: Sequence[Decision], due: Sequence[tuple[PlannedSuite, ...]]
) -> Iterator[Job]:
    """Yield jobs in plan order: trials with their decisions, then layers with their due suites."""
    for number, (each, decision) in enumerate(zip(plan.trials, decisions, strict=True), 1):
        yield Job(each, decision, Task(each.label, each.spec.seed, number, len(plan.trials)))
    for number, (each, suites) in enumerate(zip(plan.layers, due, strict=True), 1):
        task = Task(each.label, None, number, len(plan.layers))
        yield Job(each, Decision(False, "", suites), task)


@dataclass(frozen=True)
class JobStore:
    """The jobs of one run in the database.

    Attributes:
        rows: ids of the rows of the run's trials and layers, by fingerprint.
    """

    store: Store
    context: RunContext
    run_id: int
    reuse: Reuse
    rows: Mapping[str, int]

    def lease(self, job: Job) -> int | None:
        """Lease a job; return the id of the lease's row, or None if another run works on it."""
        subject = "layer_id" if job.is_layer else "trial_id"
        return self.store.lease(self.run_id, **{subject: self.rows[job.fingerprint]})

    def holder(self, job: Job) -> str:
        """Return who works on a job that could not be leased."""
        held = [lease for lease in self.store.leases() if lease.fingerprint == job.fingerprint]
        return f"process {held[0].run.pid} on {held[0].run.node}" if held else "nobody"

    def held_by_others(self) -> dict[int, int]:
        """Return the trials that other runs hold now: the run's id by the trial's row."""
        return {row: run for row, run in self.store.held().items() if run != self.run_id}

    def refreshed(self, job: Job, descendants: Iterable[Job]) -> Job:
        """Return a job with what is left of it now.

        Args:
            descendants: the jobs that are derived from it, directly or not, parents first.
        """
        if job.is_layer:
            (due,) = self.reuse.layers([job.planned])
            return replace(job, decision=replace(job.decision, due=due))
        return self.refreshed_trials([job, *descendants])[0]

    def refreshed_trials(self, jobs: Sequence[Job]) -> list[Job]:
        """Return jobs with what is left of them now; parents must come before their children."""
        decisions = self.reuse.trials([job.planned for job in jobs])
        pairs = zip(jobs, decisions, strict=True)
        return [replace(job, decision=decision) for job, decision in pairs]

    def begin(self, job: Job, device: str) -> Assignment:
        """Begin the attempt of a leased job, if it is to be trained; return its assignment."""
        row, attempt = self.rows[job.fingerprint], None
        layer = "layer-" if job.is_layer else ""
        log = self.context.home / "logs" / f"{layer}{job.fingerprint[:16]}.log"
        if job.decision.train:
            name = log.relative_to(self.context.home).as_posix()
            attempt = self.store.begin_attempt(
                row, self.context.machine_id, self.context.code_id, name
            )
        return Assignment(job, row, attempt, device, log)

    def fail_training(
        self, assignment: Assignment, failure: WorkerFailure, seconds: float
    ) -> tuple[AttemptStatus, str | None]:
        """Record how an attempt ended, unless it had already; return its status and error."""
        assert assignment.attempt is not None  # it has begun
        own = self.store.attempt(assignment.attempt)
        if own.status not in UNFINISHED:
            return own.status, own.error
        self.store.finish_attempt(
            own.id,
            failure.status,
            error=failure.error,
            traceback=failure.traceback,
            seconds=seconds,
            log_tail=tail(assignment.log),
        )
        return failure.status, failure.error

    def prune_training(self, assignment: Assignment, reason: str, seconds: float) -> None:
        """Record that an attempt was pruned, and delete its saved state."""
        assert assignment.attempt is not None
        self.store.finish_attempt(
            assignment.attempt, AttemptStatus.PRUNED, error=reason, seconds=seconds
        )
        discard_state(trial_folder(self.context.home, assignment.job.fingerprint))

    def fail_measurement(
        self, assignment: Assignment, suite: PlannedSuite, failure: WorkerFailure
    ) -> None:
        """Record that a suite was measuring when its process ended."""
        attempt_id = None
        if not assignment.job.is_layer:
            done = self.store.done_attempt(assignment.job.fingerprint)
            if done is None:
                return  # another run trains it again
            attempt_id = done.id
        self.store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            self.context.machine_id,
            self.context.code_id,
            attempt_id=attempt_id,
            layer_id=assignment.row if assignment.job.is_layer else None,
            status=MeasurementStatus.FAILED,
            error=failure.error,
            traceback="\n".join(filter(None, (failure.traceback, tail(assignment.log)))) or None,
        )
