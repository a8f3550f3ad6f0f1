"""One trial: train to the budget, evaluate and keep the weights along the way.

A training that was interrupted goes on from where it last saved its state. The test split is never
looked at here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from bench.config import TrialSpec
from bench.data import Dataset, TrainingBatches, sweep
from bench.train import checkpoint
from bench.train.loop import DivergedError, TrainingLoop
from bench.train.outcome import Outcome, write_outcome

Progress = Callable[[int, int, float, float | None, int, float], None]
"""Told now and then: steps done, steps in all, the task's loss, the share of the validation split
that was right at the last evaluation (None before the first), evaluations, seconds of training."""

SAVE_EVERY = 60.0


class TrainingInterrupted(Exception):
    """A training was asked to stop, and did; its state is saved."""


def train_trial(
    spec: TrialSpec,
    dataset: Dataset,
    device: torch.device,
    folder: Path,
    on_progress: Progress | None = None,
    parent: nn.Module | None = None,
    *,
    save_every: float = SAVE_EVERY,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train one trial, from its first step or from where it was interrupted.

    On a CPU the same trial gives the same bits, with the same number of threads, also where it was
    interrupted.

    Args:
        spec: the trial.
        dataset: what it trains on.
        device: where it trains.
        folder: for the snapshots, the outcome and, while it trains, its saved state; made where
            it is missing. Nobody else may train there meanwhile.
        on_progress: see `Progress`.
        parent: the trained model of the trial that this one is derived from, on the CPU.
        save_every: seconds between two times that the state is saved; 0 saves at each look.
        stop: asked at each look; where it says yes, the training saves its state and ends.

    Returns:
        The outcome, which is also written in the folder. A training whose loss or whose routers'
        logits stop being finite ends as "diverged", with what it left until then.

    Raises:
        TrainingInterrupted: it was asked to stop; the next call goes on.
        NonFiniteError: the logits are not finite in the first step, before its budget is known.
        BenchError: the model, the recipe or the data do not fit each other.
    """
    sweep(folder)
    cuda = [device] if device.type == "cuda" else []
    batches = TrainingBatches(spec, dataset, device)
    with torch.random.fork_rng(cuda), closing(batches):

        def begin() -> TrainingLoop:
            return TrainingLoop(spec, dataset, batches, device, folder, parent)

        course = _resumed(begin, folder)
        try:
            _follow(course, on_progress or (lambda *_: None), save_every, stop)
            error = None
        except DivergedError as diverged:
            error = str(diverged)
    outcome = course.outcome(error)
    write_outcome(outcome)
    return outcome


def _resumed(begin: Callable[[], TrainingLoop], folder: Path) -> TrainingLoop:
    """A course that goes on from what was saved, or starts."""
    course = begin()
    try:
        course.restore()
    except checkpoint.UnusableError as error:
        file = folder / checkpoint.FILE
        print(f"warning: the training starts again, {file} is of no use: {error}", file=sys.stderr)
        return begin()
    if course.journal.steps:
        print(f"the training goes on after step {course.journal.steps} of {course.steps}")
    return course


def _follow(
    course: TrainingLoop, on_progress: Progress, save_every: float, stop: Callable[[], bool]
) -> None:
    """Train to the end, report progress, and save the state now and then."""
    saved = time.monotonic()
    for loss in course.looks():
        journal = course.journal
        seen = (journal.accuracy, journal.evaluations)
        on_progress(journal.steps, course.steps, loss, *seen, journal.seconds)
        stopping = stop()
        if stopping or time.monotonic() - saved >= save_every:
            course.save()
            saved = time.monotonic()
        if stopping:
            raise TrainingInterrupted(f"stopped after step {journal.steps} of {course.steps}")
