"""The work of a worker, in any process: one job, from its assignment to rows in the database.

A worker process runs `work`; an executor that already has a process calls `do_job`.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import suites  # noqa: F401
from bench.config import TrialSpec
from bench.data import Datasets, SharedDataset
from bench.execute.context import JobContext, RunContext, begin_process, log, tail, trial_folder
from bench.execute.devices import CPU, devices_of, holding, own_device
from bench.execute.events import (
    Ended,
    Event,
    Measured,
    Measuring,
    Opened,
    Progress,
    Started,
    Waiting,
)
from bench.execute.failures import DISK_FULL, is_disk_full, rehearse, remedy, status_of
from bench.execute.jobs import Assignment, Job, Result, WorkerFailure
from bench.execute.plugins import OPENED
from bench.execute.ranks import train_in_ranks
from bench.execute.training import train_here, trained_trial
from bench.measure import LayerOfTrial, run_suite
from bench.train import discard_state
from results import StoreError, open_store
from results.store.records import AttemptStatus
from routers.errors import describe


def work(
    assignment: Assignment,
    run: RunContext,
    datasets: Mapping[str, SharedDataset],
    events: Connection,
) -> Result | WorkerFailure:
    """Do one job; send this process's id through `events`, then each event.

    SIGTERM asks it to save what it has and end.
    """
    requests: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        requests.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    os.setpgid(0, 0)  # so that processes that it starts can be ended with it
    events.send(os.getpid())

    def emit(event: Event) -> None:
        log(_line(event))
        try:
            events.send(event)
        except BrokenPipeError:  # nobody waits for this job any more
            os._exit(1)

    try:
        device = begin_process(assignment.log, assignment.device, run.plugin_hashes)
        with open_store(run.database, create=False) as store:
            context = JobContext(
                run, store, Datasets(datasets), device, emit, stop=lambda: bool(requests)
            )
            result = do_job(assignment, context)
            if OPENED:
                emit(Opened(tuple(OPENED)))
            return result
    except Exception as error:
        if not is_disk_full(error):  # only this process can tell from the error's type
            raise
        trace = traceback.format_exc()
        return WorkerFailure(AttemptStatus.INTERRUPTED, describe(error), trace, DISK_FULL)


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
    """Do a job in this process; a failed training or measurement becomes a row.

    A timing has the device to itself, whatever else the bench runs on this machine.

    Raises:
        StoreError: something could not be written.
        StoppedWaiting: it was asked to stop before it had the device.
    """
    job = assignment.job

    def waiting(who: str) -> None:
        context.emit(Waiting(job.task, who, machine=True))

    ranks = job.planned.spec.train.ranks if job.decision.train else 1
    others = [own_device(name) for name in devices_of(assignment.device)[1:ranks]]
    with holding(context.device, waiting, context.stop, alone=job.is_layer, others=others):
        if job.is_layer:
            spec = job.planned.spec
            dataset = context.datasets.get(spec.data)
            layer = partial(LayerOfTrial, spec, dataset, context.device)
            return Result(cut=not _measure(job, layer, context, layer_id=assignment.row))
        result, done = Result(), job.decision.attempt
        if job.decision.train:
            assert assignment.attempt is not None
            result = _train(assignment, context)
            # Not the last one: `db merge` may have added attempts of other machines since.
            done = context.store.attempt(assignment.attempt)
        if done is not None and done.status == AttemptStatus.DONE:
            subject = partial(trained_trial, job.planned.spec, done, context)
            result = replace(result, cut=not _measure(job, subject, context, attempt_id=done.id))
        return result


def _train(assignment: Assignment, context: JobContext) -> Result:
    """Train a trial whose attempt has begun, and record how it ended.

    Raises:
        KeyboardInterrupt: after the attempt was marked as interrupted.
        StoreError: the end could not be written; the next run continues the attempt.
    """
    assert assignment.attempt is not None
    job, home, start = assignment.job, context.run.home, time.perf_counter()
    spec, folder = job.planned.spec, trial_folder(home, job.fingerprint)
    try:
        context.emit(Started(job.task, job.decision.reason))
        train = train_in_ranks if spec.train.ranks > 1 else train_here
        outcome = train(assignment, context)
    except StoreError:
        raise
    except BaseException as error:
        # SystemExit too: a plugin that exits costs only its own trial.
        status, message = status_of(error), describe(error)
        if status == AttemptStatus.OUT_OF_MEMORY:
            message = f"{message}; {remedy(spec, context.datasets)}"
        seconds = time.perf_counter() - start
        context.store.finish_attempt(
            assignment.attempt,
            status,
            error=message,
            traceback=traceback.format_exc(),
            seconds=seconds,
            log_tail=tail(assignment.log),
        )
        context.emit(Ended(job.task, status, seconds, message))
        if isinstance(error, KeyboardInterrupt):
            raise
        return Result(status, DISK_FULL if is_disk_full(error) else None)
    checkpoint = outcome.checkpoint
    context.store.finish_attempt(
        assignment.attempt,
        AttemptStatus(outcome.status),
        error=outcome.error,
        flops=outcome.flops,
        steps=outcome.steps,
        seconds=outcome.seconds,
        checkpoint=None if checkpoint is None else checkpoint.relative_to(home).as_posix(),
        checkpoint_sha256=outcome.sha256,
    )
    # Not before the row is written: until then the saved state is all that there is.
    discard_state(folder)
    context.emit(Ended(job.task, outcome.status, outcome.seconds, outcome.error))
    return Result(outcome.status)


def _measure(
    job: Job,
    subject: Callable[[], Any],
    context: JobContext,
    *,
    attempt_id: int | None = None,
    layer_id: int | None = None,
) -> bool:
    """Measure a subject, made when it is first needed, with the suites that are due, one row each.

    If the job is asked to stop, the remaining suites do not begin, and it returns False.
    """
    subject = cache(subject)
    for suite in job.due:
        if context.stop():
            return False
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
    return True
