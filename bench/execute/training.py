"""One attempt at a trial: a row when it starts, the same row when it ends, however it ends."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress

import torch
from torch import nn

from bench.data import load_weights
from bench.execute.context import JobContext, tail
from bench.execute.events import Ended, Progress, Started, Task
from bench.execute.jobs import Assignment, Result
from bench.model import trial_model
from bench.plan import Planned
from bench.train import Outcome, TrainingInterrupted, discard_state, train_trial, why_not_cut
from bench.train import Progress as Watcher
from results import StoreError
from results.store.records import AttemptStatus
from routers.errors import BenchError, NonFiniteError, describe

DISK_FULL = "the disk is full; free some space and give the command again"


def train(assignment: Assignment, planned: Planned, reason: str, context: JobContext) -> Result:
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
        status, message = _status(error), describe(error)
        if status == AttemptStatus.OUT_OF_MEMORY:
            message = f"{message}; {_remedy(planned, context)}"
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


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a disk without room."""
    words = ("no space left on device", "disk is full", "disk quota exceeded")
    while error is not None:
        if any(each in str(error).lower() for each in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: BaseException) -> AttemptStatus:
    """What was stopped from outside is interrupted, and goes on in the next run."""
    if isinstance(error, (KeyboardInterrupt, TrainingInterrupted)) or is_disk_full(error):
        return AttemptStatus.INTERRUPTED
    if isinstance(error, NonFiniteError):
        return AttemptStatus.DIVERGED
    # The CPU's allocator has no error of its own.
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if no_memory or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return AttemptStatus.OUT_OF_MEMORY
    return AttemptStatus.FAILED


def _train(planned: Planned, context: JobContext, task: Task) -> Outcome:
    return train_trial(
        planned.spec,
        context.datasets.get(planned.spec.data),
        context.device,
        context.folder(planned.fingerprint.value),
        _watcher(context, task),
        _parent(planned, context),
        save_every=context.run.save_every,
        stop=context.stop,
    )


def _remedy(planned: Planned, context: JobContext) -> str:
    """Say what would let a training that was out of memory fit."""
    spec = planned.spec
    parts = 2 * spec.train.micro_batches
    reason = None
    # A model that cannot be built now, for want of memory, is refused by the next run if need be.
    with suppress(Exception):
        reason = why_not_cut(spec, trial_model(spec, context.datasets.get(spec.data)), parts)
    if reason:
        return f"train.micro_batches = {parts} would change what is computed: {reason}"
    return f"--set train.micro_batches={parts} trains each batch in {parts} parts"


def _parent(planned: Planned, context: JobContext) -> nn.Module | None:
    """The trained model that a derived trial starts from, on the CPU.

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


def _watcher(context: JobContext, task: Task) -> Watcher:
    return lambda *progress: context.emit(Progress(task, *progress))


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
