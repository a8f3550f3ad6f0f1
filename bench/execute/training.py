"""One attempt at a trial: a row when it starts, the same row when it ends, however it ends."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import torch

from bench.execute.events import Ended, Progress, Started, Task
from bench.execute.workplace import Workplace
from bench.outcome import Outcome
from bench.plan import Planned
from bench.train import train_trial
from results import AttemptRecord
from results.records import AttemptStatus


def attempt(
    planned: Planned, trial_id: int, reason: str, work: Workplace, task: Task
) -> AttemptRecord:
    """Train a trial and write down how it ended.

    Args:
        trial_id: the trial's row.
        reason: why it is trained.

    Returns:
        The attempt, done or not.

    Raises:
        KeyboardInterrupt: after the attempt was marked as failed.
    """
    attempt_id = work.store.start_attempt(trial_id, work.machine_id, work.code_id)
    start = time.perf_counter()
    try:
        work.tell(Started(task, reason))
        outcome = _train(planned, work, task)
    except BaseException as error:
        # Also SystemExit: a plugin that exits costs its own trial alone.
        status: AttemptStatus = (
            "out_of_memory" if isinstance(error, torch.OutOfMemoryError) else "failed"
        )
        message = "interrupted" if isinstance(error, KeyboardInterrupt) else describe(error)
        seconds = time.perf_counter() - start
        work.store.finish_attempt(
            attempt_id, status, error=message, traceback=traceback.format_exc(), seconds=seconds
        )
        work.tell(Ended(task, status, seconds, message))
        if isinstance(error, KeyboardInterrupt):
            raise
    else:
        _finish(attempt_id, outcome, work)
        work.tell(Ended(task, outcome.status, outcome.seconds, outcome.error))
    record = work.store.last_attempt(planned.fingerprint.value)
    assert record is not None  # it was started above
    return record


def describe(error: BaseException) -> str:
    """One line: the kind of error, where that says something, and its message."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return text if hasattr(error, "exit_status") and text else f"{kind}: {text}".rstrip(": ")


def _train(planned: Planned, work: Workplace, task: Task) -> Outcome:
    return train_trial(
        planned.spec,
        work.datasets.get(planned.spec.data),
        work.device,
        work.folder(planned.fingerprint.value),
        _watcher(work, task),
    )


def _watcher(work: Workplace, task: Task) -> Callable[[int, int, float, float], None]:
    def watch(step: int, steps: int, loss: float, seconds: float) -> None:
        work.tell(Progress(task, step, steps, loss, seconds))

    return watch


def _finish(attempt_id: int, outcome: Outcome, work: Workplace) -> None:
    checkpoint = outcome.checkpoint
    work.store.finish_attempt(
        attempt_id,
        outcome.status,
        error=outcome.error,
        flops=outcome.flops,
        steps=outcome.steps,
        seconds=outcome.seconds,
        checkpoint=None if checkpoint is None else checkpoint.relative_to(work.home).as_posix(),
        checkpoint_sha256=outcome.sha256,
    )
