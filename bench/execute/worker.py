"""The work of a worker: one job, from its assignment to rows in the database, in any process.

`work` is what a worker process runs; an executor that has a process already calls `do_job`.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

import suites  # noqa: F401
from bench.config import TrialSpec
from bench.data import Datasets, SharedDataset, load_weights
from bench.execute.context import JobContext, RunContext, begin_process, log, tail
from bench.execute.devices import CPU, timing, training
from bench.execute.events import (
    Ended,
    Event,
    Measured,
    Measuring,
    Opened,
    Progress,
    Started,
    Task,
    Waiting,
)
from bench.execute.failures import DISK_FULL, is_disk_full, remedy, status_of
from bench.execute.jobs import Assignment, Job, Result, TrialJob
from bench.execute.plugins import OPENED
from bench.execute.preflight import rehearse
from bench.measure import LayerOfTrial, TrainedTrial, run_suite
from bench.model import trial_model
from bench.plan import Planned
from bench.train import Outcome, discard_state, read_outcome, train_trial
from results import AttemptRecord, StoreError, open_store
from results.store.records import AttemptStatus
from routers.errors import BenchError, describe


def work(
    assignment: Assignment,
    run: RunContext,
    datasets: Mapping[str, SharedDataset],
    events: Connection,
) -> Result:
    """Do one job; send this process's number through `events`, then what happens.

    SIGTERM asks it to save what it has and to end.
    """
    requests: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        requests.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    os.setpgid(0, 0)  # so that what it starts can be ended with it
    events.send(os.getpid())
    device = begin_process(assignment.log, assignment.device, run.plugin_hashes)

    def emit(event: Event) -> None:
        log(_line(event))
        try:
            events.send(event)
        except BrokenPipeError:  # nobody waits for this job any more
            os._exit(1)

    with open_store(run.database, create=False) as store:
        context = JobContext(
            run, store, Datasets(datasets), device, emit, stop=lambda: bool(requests)
        )
        result = do_job(assignment, context)
        if OPENED.names:
            emit(Opened(OPENED.names))
        return result


def rehearse_in_worker(
    spec: TrialSpec, run: RunContext, datasets: Mapping[str, SharedDataset]
) -> None:
    """Rehearse a training, see `rehearse`, on the CPU of a process of its own."""
    device = begin_process(Path(run.home, "logs", "rehearsals.log"), CPU, run.plugin_hashes)
    rehearse(spec, Datasets(datasets), device)


def _line(event: Event) -> str:
    match event:
        case Started(task, reason):
            return f"{task.name}, seed {task.seed}: training: {reason}"
        case Progress(_, step, steps, loss, accuracy):
            seen = "" if accuracy is None else f", validation top-1 {100 * accuracy:.1f} %"
            return f"step {step} of {steps}, loss {loss:.4f}{seen}"
        case Ended(_, status, seconds, error):
            return f"training {status} after {seconds:.1f} s{f': {error}' if error else ''}"
        case Measuring(_, suite):
            return f"measuring {suite}"
        case Measured(_, suite, status, seconds, error):
            return f"{suite} {status} after {seconds:.1f} s{f': {error}' if error else ''}"
    return str(event)


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
        result = _train_attempt(assignment, planned, decision.reason, context)
        done = context.store.last_attempt(planned.fingerprint.value)
    if done is not None and done.status == AttemptStatus.DONE:
        subject = partial(_trained, planned.spec, done, context)
        _measure(job, subject, context, attempt_id=done.id)
    return result


def _train_attempt(
    assignment: Assignment, planned: Planned, reason: str, context: JobContext
) -> Result:
    """Train a trial, whose attempt has begun, and write down how it ended.

    Args:
        reason: why it is trained.

    Raises:
        KeyboardInterrupt: after the attempt was marked as interrupted.
        StoreError: its end could not be written; the next run continues it.
    """
    assert assignment.attempt is not None
    task, start = assignment.job.task, time.perf_counter()
    try:
        context.emit(Started(task, reason))
        outcome = _train(planned, context, task)
    except StoreError:
        raise
    except BaseException as error:
        # Also SystemExit: a plugin that exits costs its own trial alone.
        status, message = status_of(error), describe(error)
        if status == AttemptStatus.OUT_OF_MEMORY:
            message = f"{message}; {remedy(planned.spec, context.datasets)}"
        seconds = time.perf_counter() - start
        context.store.finish_attempt(
            assignment.attempt,
            status,
            error=message,
            traceback=traceback.format_exc(),
            seconds=seconds,
            log_tail=tail(assignment.log),
        )
        context.emit(Ended(task, status, seconds, message))
        if isinstance(error, KeyboardInterrupt):
            raise
        return Result(status, DISK_FULL if is_disk_full(error) else None)
    _finish(assignment.attempt, outcome, context)
    # Not before the row is written: until then a checkpoint is all that there is.
    discard_state(context.folder(planned.fingerprint.value))
    context.emit(Ended(task, outcome.status, outcome.seconds, outcome.error))
    return Result(outcome.status)


def _train(planned: Planned, context: JobContext, task: Task) -> Outcome:
    return train_trial(
        planned.spec,
        context.datasets.get(planned.spec.data),
        context.device,
        context.folder(planned.fingerprint.value),
        lambda *progress: context.emit(Progress(task, *progress)),
        _parent(planned, context),
        save_every=context.run.options.save_every,
        stop=context.stop,
    )


def _parent(planned: Planned, context: JobContext) -> nn.Module | None:
    """Return the trained model that a derived trial starts from, on the CPU.

    Raises:
        BenchError: its training gave none.
    """
    spec, fingerprint = planned.spec.parent, planned.fingerprint.parent
    if spec is None or fingerprint is None:
        return None
    done = context.store.done_attempt(fingerprint)
    if done is None or done.checkpoint is None or done.checkpoint_sha256 is None:
        last = context.store.last_attempt(fingerprint)
        how = f"{last.status.replace('_', ' ')}: {last.error}" if last else "was not trained"
        name = f"{spec.router.name} seed {spec.seed} (trial {fingerprint[:10]})"
        raise BenchError(f"its parent, {name}, {how}")
    model = trial_model(spec, context.datasets.get(spec.data))
    load_weights(model, context.run.home / done.checkpoint, done.checkpoint_sha256)
    return model


def _finish(attempt_id: int, outcome: Outcome, context: JobContext) -> None:
    checkpoint, home = outcome.checkpoint, context.run.home
    context.store.finish_attempt(
        attempt_id,
        AttemptStatus(outcome.status),
        error=outcome.error,
        flops=outcome.flops,
        steps=outcome.steps,
        seconds=outcome.seconds,
        checkpoint=None if checkpoint is None else checkpoint.relative_to(home).as_posix(),
        checkpoint_sha256=outcome.sha256,
    )


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
