"""The database's side of a run's jobs: each is leased, begun, ended and released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.execute.context import RunContext, tail, trial_folder
from bench.execute.failures import WorkerFailure
from bench.execute.jobs import Assignment, Job, LayerJob, TrialJob
from bench.plan import Planned, PlannedSuite, Reuse, Rows
from bench.train import discard_state
from results import Store
from results.store.outcomes import UNFINISHED
from results.store.records import AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class Lease:
    """A job that this run holds. `job` is as the database has it now: others may have worked."""

    id: int
    job: Job
    row: int


@dataclass(frozen=True)
class JobStore:
    """The jobs of one run in the database.

    Attributes:
        context: of the run.
        run_id: its row.
        reuse: decides what is left to do of a job.
        rows: of its trials and layers.
        children: what is derived from a trial, by its fingerprint.
    """

    store: Store
    context: RunContext
    run_id: int
    reuse: Reuse
    rows: Rows
    children: Mapping[str, Sequence[Planned]]

    def lease(self, job: Job) -> Lease | None:
        """Take a job; None where another run works on it."""
        fingerprint = job.planned.fingerprint.value
        if isinstance(job, TrialJob):
            row = self.rows.trials[fingerprint]
            lease_id = self.store.claim(self.run_id, trial_id=row)
        else:
            row = self.rows.layers[fingerprint]
            lease_id = self.store.claim(self.run_id, layer_id=row)
        return None if lease_id is None else Lease(lease_id, self._refreshed(job), row)

    def begin(self, lease: Lease, device: str) -> Assignment:
        """Begin the attempt of a leased job, where it is to be trained; returns its assignment."""
        job, attempt = lease.job, None
        layer = "layer-" if isinstance(job, LayerJob) else ""
        log = self.context.home / "logs" / f"{layer}{job.planned.fingerprint.value[:16]}.log"
        if isinstance(job, TrialJob) and job.decision.train:
            attempt = self.store.begin_attempt(
                lease.row,
                self.context.machine_id,
                self.context.code_id,
                log.relative_to(self.context.home).as_posix(),
            )
        return Assignment(job, lease.row, attempt, device, log)

    def holder(self, job: Job) -> str:
        """Name who works on a job that could not be leased."""
        fingerprint = job.planned.fingerprint.value
        held = [lease for lease in self.store.claims() if lease.fingerprint == fingerprint]
        return f"process {held[0].run.pid} on {held[0].run.node}" if held else "nobody"

    def fail_training(
        self, assignment: Assignment, failure: WorkerFailure, seconds: float
    ) -> tuple[AttemptStatus, str | None]:
        """Write down how an attempt ended whose worker did not, unless it had ended before.

        Returns:
            Its status and error.
        """
        last = self.store.last_attempt(assignment.job.planned.fingerprint.value)
        assert last is not None  # it has begun
        if last.id != assignment.attempt or last.status not in UNFINISHED:
            return last.status, last.error
        self.store.finish_attempt(
            last.id,
            failure.status,
            error=failure.error,
            traceback=failure.traceback,
            seconds=seconds,
            log_tail=tail(assignment.log),
        )
        return failure.status, failure.error

    def prune_training(self, assignment: Assignment, reason: str, seconds: float) -> None:
        """Write down that an attempt was not worth its time; nothing is kept to go on from."""
        assert assignment.attempt is not None
        self.store.finish_attempt(
            assignment.attempt, AttemptStatus.PRUNED, error=reason, seconds=seconds
        )
        discard_state(trial_folder(self.context.home, assignment.job.planned.fingerprint.value))

    def fail_measurement(
        self, assignment: Assignment, suite: PlannedSuite, failure: WorkerFailure
    ) -> None:
        """Write down that a suite was measuring when its process ended."""
        done = None
        if isinstance(assignment.job, TrialJob):
            done = self.store.done_attempt(assignment.job.planned.fingerprint.value)
            if done is None:
                return  # another run trains it again
        self.store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            self.context.machine_id,
            self.context.code_id,
            attempt_id=None if done is None else done.id,
            layer_id=assignment.row if done is None else None,
            status=MeasurementStatus.FAILED,
            error=failure.error,
            traceback="\n".join(filter(None, (failure.traceback, tail(assignment.log)))) or None,
        )

    def heartbeat(self, progress: Mapping[int, Mapping[str, Any]]) -> None:
        """Write down that this run lives, and how far it is with each lease."""
        self.store.heartbeat(self.run_id, progress)

    def release(self, lease: Lease) -> None:
        """Let go of a job."""
        self.store.release(lease.id)

    def _refreshed(self, job: Job) -> Job:
        """Return the job with what is left to do of it now."""
        if isinstance(job, LayerJob):
            (due,) = self.reuse.layers([job.planned])
            return replace(job, due=due)
        children = self.children.get(job.planned.fingerprint.value, ())
        decision, *_ = self.reuse.trials([job.planned, *children])
        return replace(job, decision=decision)
