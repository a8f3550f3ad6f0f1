"""The database's side of a run's jobs: each is leased, begun, ended and released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.execute.context import RunContext, tail, trial_folder
from bench.execute.failures import WorkerFailure
from bench.execute.jobs import Assignment, Job
from bench.plan import Planned, PlannedSuite, Reuse
from bench.train import discard_state
from results import Store
from results.store.outcomes import UNFINISHED
from results.store.records import AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class JobStore:
    """The jobs of one run in the database.

    Attributes:
        run_id: the run's row.
        reuse: decides what is left to do of a job.
        rows: of the run's trials and layers, by fingerprint.
        children: what is derived from a trial, by its fingerprint.
    """

    store: Store
    context: RunContext
    run_id: int
    reuse: Reuse
    rows: Mapping[str, int]
    children: Mapping[str, Sequence[Planned]]

    def lease(self, job: Job) -> int | None:
        """Take a job; returns the lease's row, None where another run works on it."""
        subject = "layer_id" if job.is_layer else "trial_id"
        return self.store.claim(self.run_id, **{subject: self.rows[job.fingerprint]})

    def holder(self, job: Job) -> str:
        """Name who works on a job that could not be leased."""
        held = [lease for lease in self.store.claims() if lease.fingerprint == job.fingerprint]
        return f"process {held[0].run.pid} on {held[0].run.node}" if held else "nobody"

    def refreshed(self, job: Job) -> Job:
        """Return a job with what is left to do of it now: other runs may have worked on it."""
        if job.is_layer:
            (due,) = self.reuse.layers([job.planned])
            return replace(job, decision=replace(job.decision, due=due))
        children = self.children.get(job.fingerprint, ())
        decision, *_ = self.reuse.trials([job.planned, *children])
        return replace(job, decision=decision)

    def begin(self, job: Job, device: str) -> Assignment:
        """Begin the attempt of a leased job, where it is to be trained; returns its assignment."""
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
        """Write down how an attempt ended whose worker did not, unless it had ended before.

        Returns:
            Its status and error.
        """
        last = self.store.last_attempt(assignment.job.fingerprint)
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
        """Write down that an attempt was not worth its time; its saved state is deleted."""
        assert assignment.attempt is not None
        self.store.finish_attempt(
            assignment.attempt, AttemptStatus.PRUNED, error=reason, seconds=seconds
        )
        discard_state(trial_folder(self.context.home, assignment.job.fingerprint))

    def fail_measurement(
        self, assignment: Assignment, suite: PlannedSuite, failure: WorkerFailure
    ) -> None:
        """Write down that a suite was measuring when its process ended."""
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
