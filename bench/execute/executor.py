"""Who does the jobs of a run: the interface, this process itself, and how one job is done.

The other implementation is in `processes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import torch

from bench.config import TrialSpec
from bench.data import Datasets
from bench.execute.context import JobContext, RunContext
from bench.execute.devices import CPU, StoppedWaiting, own_device, timing, training
from bench.execute.events import Measured, Measuring, OnEvent, Waiting
from bench.execute.jobs import Assignment, Job, Result, TrialJob
from bench.execute.preflight import Check, rehearse
from bench.execute.training import train
from bench.measure import LayerOfTrial, TrainedTrial, run_suite
from bench.train import read_outcome
from results import AttemptRecord, Store
from results.store.records import AttemptStatus
from routers.errors import BenchError


@dataclass(frozen=True)
class WorkerFailure:
    """A job whose worker ended without a result.

    Attributes:
        status: what becomes of its attempt.
        error: one line.
        leave: why the whole run is to end, where it is.
    """

    status: AttemptStatus
    error: str
    traceback: str | None = None
    leave: str | None = None


class Executor(Protocol):
    """Does jobs, one at a time in each slot.

    Attributes:
        slots: the device of each.
    """

    slots: tuple[str, ...]

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterable[Check]:
        """Rehearse trainings, see `rehearse`.

        Returns:
            For each a function that raises what its rehearsal raised, and else returns.
        """

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        """Begin a job in a free slot; its events are passed on here or in `wait`."""

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        """Return the slots that became free, after so many seconds at most."""

    def request_stop(self, slot: int) -> None:
        """Ask the job in a slot to save what it has, and to end."""

    def request_stop_all(self) -> None:
        """Ask all jobs, and those that are still to start, to save what they have, and to end."""

    def kill(self) -> None:
        """End all jobs at once."""


class LocalExecutor:
    """This process, as for a debugger: `start` returns when the job is done.

    Args:
        device: where jobs are done.
        context: of the run.
        store: its database.
        datasets: its data sets.
        stop: whether the run was asked to leave.
    """

    def __init__(
        self,
        device: str,
        context: RunContext,
        store: Store,
        datasets: Datasets,
        stop: Callable[[], bool],
    ) -> None:
        self.slots: tuple[str, ...] = (device,)
        self._context, self._store, self._datasets = context, store, datasets
        self._run_stops = stop
        self._job_stops = False
        self._finished: list[tuple[int, Result | WorkerFailure]] = []

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterable[Check]:
        return [partial(rehearse, spec, self._datasets, torch.device(CPU)) for spec in specs]

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        self._job_stops = False
        device = own_device(self.slots[slot])
        context = JobContext(
            self._context, self._store, self._datasets, device, on_event, self._stops
        )
        result: Result | WorkerFailure
        try:
            result = do_job(assignment, context)
        except StoppedWaiting as stopped:
            result = WorkerFailure(AttemptStatus.INTERRUPTED, str(stopped))
        self._finished.append((slot, result))

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        finished, self._finished = self._finished, []
        return finished

    def request_stop(self, slot: int) -> None:
        self._job_stops = True

    def request_stop_all(self) -> None:
        """Do nothing: between two jobs nothing runs, and within one, it asks for itself."""

    kill = request_stop_all

    def _stops(self) -> bool:
        return self._job_stops or self._run_stops()


def do_job(assignment: Assignment, context: JobContext) -> Result:
    """Do a job in this process; a failure of what is trained or measured becomes a row.

    Timings have the device to themselves, whoever else runs on this machine.

    Raises:
        StoreError: something could not be written.
        StoppedWaiting: it was asked to stop before it had the device.
    """
    job = assignment.job

    def waiting(who: str) -> None:
        context.emit(Waiting(job.task, who, machine=True))

    if isinstance(job, TrialJob):
        with training(context.device, waiting, context.stop):
            return _do_trial(assignment, job, context)
    with timing(context.device, waiting, context.stop):
        spec = job.planned.spec
        subject = partial(LayerOfTrial, spec, context.datasets.get(spec.data), context.device)
        _measure(job, subject, context, layer_id=assignment.row)
    return Result()


def _do_trial(assignment: Assignment, job: TrialJob, context: JobContext) -> Result:
    planned, decision, result = job.planned, job.decision, Result()
    done = decision.attempt
    if decision.train:
        result = train(assignment, planned, decision.reason, context)
        done = context.store.last_attempt(planned.fingerprint.value)
    if done is not None and done.status == AttemptStatus.DONE:
        subject = partial(_trained, planned.spec, done, context)
        _measure(job, subject, context, attempt_id=done.id)
    return result


def _measure(
    job: Job,
    subject: Callable[[], Any],
    context: JobContext,
    *,
    attempt_id: int | None = None,
    layer_id: int | None = None,
) -> None:
    """Put a subject through the suites that are due, a row for each.

    Where the job is asked to stop, the suites that are left are not begun.

    Args:
        subject: makes what they measure, when the first of them asks.
    """
    subject = cache(subject)
    for suite in job.due:
        if context.stop():
            return
        context.emit(Measuring(job.task, suite.name))
        result = run_suite(suite.name, suite.options, subject)
        context.store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            context.run.machine_id,
            context.run.code_id,
            attempt_id=attempt_id,
            layer_id=layer_id,
            **vars(result),
        )
        context.emit(Measured(job.task, suite.name, result.status, result.seconds, result.error))


def _trained(spec: TrialSpec, done: AttemptRecord, context: JobContext) -> TrainedTrial:
    assert done.checkpoint is not None  # a done attempt has one
    folder = (context.run.home / done.checkpoint).parent
    outcome = read_outcome(folder)
    if outcome.sha256 != done.checkpoint_sha256:
        raise BenchError(
            f"{folder} is not what trial {done.fingerprint[:10]} left there: the SHA-256 of its "
            f"final weights is {outcome.sha256}, in the database {done.checkpoint_sha256}; delete "
            "the folder to train the trial again"
        )
    return TrainedTrial(spec, context.datasets.get(spec.data), outcome, context.device)
