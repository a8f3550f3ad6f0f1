"""What a run does in the database for each job: claim it, decide anew, begin, give up, release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.execute.assignment import Assignment
from bench.execute.hands import Lost
from bench.execute.jobs import Job, LayerJob, TrialJob
from bench.execute.logs import tail
from bench.execute.workplace import trial_folder
from bench.plan import Planned, PlannedSuite
from bench.record import Rows
from bench.resume import discard
from bench.reuse import Reuse
from results import Store
from results.outcomes import UNFINISHED
from results.records import AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class Claim:
    """A job that this run holds. `job` is as the database has it now: others may have worked."""

    id: int
    job: Job
    row: int


@dataclass(frozen=True)
class Desk:
    """Where jobs are taken and handed in.

    Attributes:
        home: folder of everything that runs make.
        children: what is derived from a trial, by its fingerprint.
    """

    store: Store
    home: Path
    reuse: Reuse
    rows: Rows
    run_id: int
    machine_id: int
    code_id: int
    children: Mapping[str, Sequence[Planned]]

    def claim(self, job: Job) -> Claim | None:
        """Take a job; None where another run works on it."""
        fingerprint = job.planned.fingerprint.value
        if isinstance(job, TrialJob):
            row = self.rows.trials[fingerprint]
            claim = self.store.claim(self.run_id, trial_id=row)
        else:
            row = self.rows.layers[fingerprint]
            claim = self.store.claim(self.run_id, layer_id=row)
        return None if claim is None else Claim(claim, self._anew(job), row)

    def begin(self, claim: Claim, device: str, micro_batches: int) -> Assignment:
        """The assignment of a claimed job, whose attempt begins now if there is one.

        Args:
            micro_batches: an attempt that was interrupted in halved batches goes on in them.
        """
        job, attempt = claim.job, None
        layer = "layer-" if isinstance(job, LayerJob) else ""
        log = self.home / "logs" / f"{layer}{job.planned.fingerprint.value[:16]}.log"
        if isinstance(job, TrialJob) and job.decision.train:
            last = self.store.last_attempt(job.planned.fingerprint.value)
            if last is not None and last.status in UNFINISHED and last.note:
                micro_batches = 2
            size = job.planned.spec.train.batch_size
            note = f"micro-batches of {-(-size // micro_batches)}: {size} were out of memory"
            attempt = self.store.begin_attempt(
                claim.row,
                self.machine_id,
                self.code_id,
                log.relative_to(self.home).as_posix(),
                note if micro_batches > 1 else None,
            )
        return Assignment(job, claim.row, attempt, device, log, micro_batches)

    def holder(self, job: Job) -> str:
        """Who works on a job that could not be claimed."""
        fingerprint = job.planned.fingerprint.value
        held = [claim for claim in self.store.claims() if claim.fingerprint == fingerprint]
        return f"process {held[0].run.pid} on {held[0].run.node}" if held else "nobody"

    def lost_training(
        self, assignment: Assignment, lost: Lost, seconds: float
    ) -> tuple[AttemptStatus, str | None]:
        """Write down how an attempt ended without a word, unless it had ended before.

        Returns:
            Its status and error.
        """
        last = self.store.last_attempt(assignment.job.planned.fingerprint.value)
        assert last is not None  # it has begun
        if last.id != assignment.attempt or last.status not in UNFINISHED:
            return last.status, last.error
        self.store.finish_attempt(
            last.id,
            lost.status,
            error=lost.error,
            traceback=lost.traceback,
            seconds=seconds,
            log_tail=tail(assignment.log),
        )
        return lost.status, lost.error

    def stopped_training(self, assignment: Assignment, reason: str, seconds: float) -> None:
        """Write down that an attempt ended since it was not worth its time, and goes on no more."""
        assert assignment.attempt is not None
        self.store.finish_attempt(
            assignment.attempt, AttemptStatus.PRUNED, error=reason, seconds=seconds
        )
        discard(trial_folder(self.home, assignment.job.planned.fingerprint.value))

    def lost_measurement(self, assignment: Assignment, suite: PlannedSuite, lost: Lost) -> None:
        """Write down that a suite was measuring when its process ended."""
        done = None
        if isinstance(assignment.job, TrialJob):
            done = self.store.done_attempt(assignment.job.planned.fingerprint.value)
            if done is None:
                return  # another run trains it anew
        self.store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            self.machine_id,
            self.code_id,
            attempt_id=None if done is None else done.id,
            layer_id=assignment.row if done is None else None,
            status=MeasurementStatus.FAILED,
            error=lost.error,
            traceback="\n".join(filter(None, (lost.traceback, tail(assignment.log)))) or None,
        )

    def beat(self, progress: Mapping[int, Mapping[str, Any]]) -> None:
        """Tell all who read the database that this run lives, and how far it is."""
        self.store.heartbeat(self.run_id, progress)

    def release(self, claim: Claim) -> None:
        """Let go of a job."""
        self.store.release(claim.id)

    def _anew(self, job: Job) -> Job:
        if isinstance(job, LayerJob):
            (due,) = self.reuse.layers([job.planned])
            return replace(job, due=due)
        children = self.children.get(job.planned.fingerprint.value, ())
        decision, *_ = self.reuse.trials([job.planned, *children])
        return replace(job, decision=decision)
