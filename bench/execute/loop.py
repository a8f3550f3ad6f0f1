"""The job loop: all jobs of a run, from the first to the last, on any executor.

A job that another run holds is tried again until it is done.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from bench.execute import events
from bench.execute.context import Interrupts
from bench.execute.events import Event, OnEvent, Progress
from bench.execute.executor import Executor
from bench.execute.jobs import (
    Assignment,
    Job,
    JobStore,
    Result,
    WorkerFailure,
)
from bench.execute.queue import Item, Queue
from bench.plan import PlannedSuite
from results import StoreError
from results.store.leases import STALE_SECONDS
from results.store.records import AttemptStatus

HEARTBEAT = 2.0
"""Least number of seconds between two heartbeats of a run."""
ALL_HEARTBEATS = 0.08
"""Least number of seconds between two heartbeats of any runs that share a study's jobs: 256 runs
each send one every 20 seconds; a run counts as dead after 120."""
POLL = 0.5
"""Most seconds between two queries of the executor."""
PATIENCE = 30.0
"""Seconds that workers have to save what they have if the database is out of reach."""


class JobSource(Protocol):
    """The jobs of a run: those that are known when it begins, and those that follow from them."""

    @property
    def study(self) -> str:
        """The name of the study that the jobs belong to."""

    def pending(self) -> Sequence[Job]:
        """Return the jobs to rehearse; none if there is nothing to do."""

    def record(self) -> Mapping[str, int]:
        """Write the study, after the rehearsals and before the run's row.

        Returns:
            The id of the row of each trial and layer, by fingerprint.
        """

    def begin(self, run_id: int) -> Sequence[Job]:
        """Return the first jobs, none of them idle, and emit what is known about them."""

    def why_prune(self, job: Job, progress: Progress) -> str | None:
        """Return why a training at this point should end now, or None if it should continue."""

    def following(self, job: Job) -> Iterable[Job]:
        """Return the jobs that follow one that has ended, or had ended before it could begin."""


@dataclass
class _Active:
    """A job at work in a slot.

    Attributes:
        lease: id of the row of the job's lease.
        measured: the suites that have ended.
        pruned: why this training alone was asked to stop; None if it was not.
        progress: the last state of the training or measurement, which `status` shows.
    """

    item: Item
    lease: int
    assignment: Assignment
    began: float = field(default_factory=time.perf_counter)
    measuring: PlannedSuite | None = None
    measured: set[str] = field(default_factory=set)
    pruned: str | None = None
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


class JobLoop:
    """The jobs of one run, done by one executor.

    Args:
        jobs: the first jobs, in the order of the plan; none is idle.
        source: the source of the jobs that follow those that ended.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        source: JobSource,
        job_store: JobStore,
        executor: Executor,
        emit: OnEvent,
        interrupts: Interrupts,
    ) -> None:
        self._queue, self._source = Queue(jobs, job_store), source
        self._active: dict[int, _Active] = {}
        self._job_store, self._executor = job_store, executor
        self._emit, self._interrupts = emit, interrupts
        self._leaving: str | None = None
        self._last_try, self._last_heartbeat = 0.0, time.monotonic()

    def run(self) -> str | None:
        """Do all jobs; return why some were left, or None if none was.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C; nothing keeps running.
            StoreError: the database cannot be written; nothing keeps running.
        """
        try:
            while self._active or (self._queue and not self._leaving):
                if self._interrupts.reason is not None:
                    self._leave(self._interrupts.reason)
                for slot in range(len(self._executor.slots)):
                    self._fill(slot)
                ended = self._executor.wait(POLL)
                for slot, result in ended:
                    self._finish(slot, result)
                self._heartbeat()
                if not (self._active or ended) and self._queue and not self._leaving:
                    self._interrupts.sleep(POLL)
        except StoreError:
            # Workers that are asked to stop save what they have.
            self._executor.request_stop_all()
            end = time.monotonic() + PATIENCE
            while self._active and time.monotonic() < end:
                for slot, _ in self._executor.wait(POLL):
                    del self._active[slot]
            self._executor.kill()
            raise
        except BaseException:
            self._executor.kill()
            raise
        return self._leaving

    def _on_event(self, slot: int, event: Event) -> None:
        """Update the job in a slot from one of its events, and emit the event."""
        active = self._active[slot]
        match event:
            case events.Started():
                active.progress = {"doing": "training"}
            case Progress(_, step, steps, loss, accuracy, _, seconds):
                numbers = {"step": step, "steps": steps, "loss": loss, "accuracy": accuracy}
                active.progress = {"doing": "training", **numbers, "seconds": seconds}
                if active.pruned is None:
                    active.pruned = self._source.why_prune(active.item.job, event)
                    if active.pruned is not None:
                        self._executor.request_stop(slot)
            case events.Ended(_, AttemptStatus.INTERRUPTED) if active.pruned is not None:
                return  # emitted once it is recorded as pruned
            case events.Measuring(_, name):
                due = active.assignment.job.due
                active.measuring = next(suite for suite in due if suite.name == name)
                active.progress = {"doing": name, "since": time.time()}
            case events.Measured(_, name):
                active.measuring = None
                active.measured.add(name)
        self._emit(event)

    def _fill(self, slot: int) -> None:
        """Start a job in a slot, if it is free and a job is ready."""
        device = self._executor.slots[slot]
        while slot not in self._active and not self._leaving:
            jobs = {number: active.item.job for number, active in self._active.items()}
            here = [job for number, job in jobs.items() if self._executor.slots[number] == device]
            for done in self._queue.refresh():
                self._pass_over(done)
            item = self._queue.first_ready(list(jobs.values()), here)
            if item is None:
                break
            self._begin(slot, item)

    def _begin(self, slot: int, item: Item) -> None:
        """Start a job, unless another run has it or has done it."""
        lease = self._job_store.lease(item.job)
        if lease is None:
            if not item.announced:
                self._emit(events.Waiting(item.job.task, self._job_store.holder(item.job)))
            self._queue.set_aside(item)
            return
        self._queue.remove(item)
        refreshed = self._job_store.refreshed(item.job, self._queue.descendants(item.job))
        job = refreshed.without(item.crashed)
        if job.idle:
            self._job_store.store.release(lease)
            if not item.crashed:
                self._queue.share()
                self._pass_over(job)
            return
        if job.reused is not None:
            self._emit(job.reused)
        assignment = self._job_store.begin(job, self._executor.slots[slot])
        self._active[slot] = _Active(item, lease, assignment)
        self._executor.start(slot, assignment, partial(self._on_event, slot))

    def _finish(self, slot: int, result: Result | WorkerFailure) -> None:
        """Release a job that has ended, and queue what follows."""
        active = self._active.pop(slot)
        status = result.status
        if active.pruned is not None and status == AttemptStatus.INTERRUPTED:
            status, seconds = AttemptStatus.PRUNED, active.seconds
            self._job_store.prune_training(active.assignment, active.pruned, seconds)
            self._emit(events.Ended(active.item.job.task, status, seconds, active.pruned))
        elif isinstance(result, WorkerFailure):
            status = self._fail(active, result)
        self._job_store.store.release(active.lease)
        if status == AttemptStatus.INTERRUPTED:
            self._queue.drop_children(active.item.job)
        elif active.item not in self._queue:
            self._add_following(active.assignment.job)
        if result.leave:
            self._leave(result.leave)

    def _fail(self, active: _Active, failure: WorkerFailure) -> str | None:
        """Record what a worker left undone; return the status of its training."""
        seconds, assignment = active.seconds, active.assignment
        task, suite, status = active.item.job.task, active.measuring, None
        if assignment.attempt is not None and suite is None:
            status, error = self._job_store.fail_training(assignment, failure, seconds)
            if status != AttemptStatus.DONE:
                self._emit(events.Ended(task, status, seconds, error))
                return status
        due = (each for each in assignment.job.due if each.name not in active.measured)
        suite = suite or next(due, None)
        if suite is None:
            return status
        # A measurement that was stopped from outside is still due and has no result.
        if failure.status != AttemptStatus.INTERRUPTED:
            self._job_store.fail_measurement(assignment, suite, failure)
            active.item.crashed.add(suite.name)
            self._queue.put_back(active.item)  # for the suites after it
        self._emit(events.Measured(task, suite.name, failure.status, seconds, failure.error))
        return status

    def _pass_over(self, job: Job) -> None:
        """Queue what follows a job that another run has done."""
        if job.reused is not None:
            self._emit(job.reused)
        self._add_following(job)

    def _add_following(self, job: Job) -> None:
        self._queue.add(self._source.following(job))

    def _leave(self, reason: str) -> None:
        """Begin nothing more, and ask running jobs to save and stop."""
        if not self._leaving:
            self._leaving = reason
            self._executor.request_stop_all()
            self._emit(events.Leaving(reason))

    def _heartbeat(self) -> None:
        """Record that the run is alive; tolerate a database that cannot be written for a while."""
        now = time.monotonic()
        if now - self._last_try < max(HEARTBEAT, ALL_HEARTBEATS * self._queue.runs):
            return
        self._last_try = now
        progress = {
            active.lease: {**active.progress, "device": active.assignment.device}
            for active in self._active.values()
        }
        try:
            self._job_store.store.heartbeat(self._job_store.run_id, progress)
            self._last_heartbeat = time.monotonic()
        except StoreError:
            if now - self._last_heartbeat > STALE_SECONDS:
                raise
