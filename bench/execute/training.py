"""One attempt at a trial: a row when it starts, the same row when it ends, however it ends."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import torch
from torch import nn

from bench.checkpoint import load_weights
from bench.execute.events import Ended, Progress, Started, Task
from bench.execute.workplace import Workplace
from bench.outcome import Outcome
from bench.plan import Planned
from bench.train import train_trial
from bench.trial_model import trial_model
from results import AttemptRecord
from results.records import AttemptStatus
from routers.errors import BenchError


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
        _parent(planned, work),
    )


def _parent(planned: Planned, work: Workplace) -> nn.Module | None:
    """The trained model that a derived trial starts from, on the CPU.

    Raises:
        BenchError: its training gave none.
    """
    spec, fingerprint = planned.spec.parent, planned.fingerprint.parent
    if spec is None or fingerprint is None:
        return None
    done = work.store.done_attempt(fingerprint)
    if done is None or done.checkpoint is None or done.checkpoint_sha256 is None:
        last = work.store.last_attempt(fingerprint)
        how = f"{last.status.replace('_', ' ')}: {last.error}" if last else "was not trained"
        name = f"{spec.router.name} seed {spec.seed} (trial {fingerprint[:10]})"
        raise BenchError(f"its parent, {name}, {how}")
    model = trial_model(spec, work.datasets.get(spec.data))
    load_weights(model, work.home / done.checkpoint, done.checkpoint_sha256)
    return model


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
