"""Rehearsals of all trainings before the first of them: a mistake is told at once, by one message.

In processes of their own, so that a router that crashes costs its own trial and not the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from bench.config import TrialSpec
from bench.datasets import Datasets
from bench.execute.assignment import Surroundings
from bench.execute.devices import CPU
from bench.execute.fork_server import forked
from bench.execute.jobs import Job, TrialJob
from bench.execute.process import begin_process
from bench.rehearsal import rehearse
from bench.specs import condition_of
from routers.errors import RequestError

LONGEST = 300
"""Seconds for one rehearsal; what takes longer is found out by its training."""

Outcome = Callable[[], None]
"""Returns where a rehearsal went well; else raises what it raised."""
Stage = Callable[[Sequence[TrialSpec]], Iterable[Outcome]]


def refuse_untrainable(jobs: Iterable[Job], stage: Stage) -> None:
    """Rehearse each training once, whatever the number of its seeds.

    Args:
        stage: where they are rehearsed.

    Raises:
        RequestError: one cannot be trained as it was asked for; it names the trial.
    """
    trials = [job for job in jobs if isinstance(job, TrialJob) and job.decision.train]
    once = {condition_of(job.planned.spec): job for job in trials}.values()
    outcomes = stage([job.planned.spec for job in once])
    for job, outcome in zip(once, outcomes, strict=True):
        try:
            outcome()
        except RequestError as error:
            raise RequestError(f"{job.task.name}: {error}") from error
        except (Exception, SystemExit):
            continue  # no mistake in the request: it costs its own trial alone, and is told there


def here(datasets: Datasets) -> Stage:
    """In this process."""

    def stage(specs: Sequence[TrialSpec]) -> Iterator[Outcome]:
        for spec in specs:
            yield lambda spec=spec: rehearse(spec, datasets, torch.device(CPU))  # type: ignore[misc]

    return stage


def apart(shared: Surroundings, workers: int) -> Stage:
    """Each in a process of its own, so many at once."""
    begin = forked(_rehearse, LONGEST)

    def stage(specs: Sequence[TrialSpec]) -> Iterator[Outcome]:
        for first in range(0, len(specs), workers):
            futures = [begin(spec, shared) for spec in specs[first : first + workers]]
            yield from (future.result for future in futures)

    return stage


def _rehearse(spec: TrialSpec, shared: Surroundings) -> None:
    log = Path(shared.home, "logs", "rehearsals.log")
    rehearse(spec, Datasets(shared.datasets), begin_process(log, CPU, shared.plugins))
