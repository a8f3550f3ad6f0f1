"""A whole run: write the plan down, check what can be checked, do what is not done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.datasets import Datasets
from bench.environment import code_version
from bench.execute.events import Ended, Event, Listener, Measured, Reused, Task
from bench.execute.jobs import Job, TrialJob, jobs_of
from bench.execute.local import run_here
from bench.execute.workplace import Workplace, best_device, prepared_machine
from bench.fingerprint import canonical
from bench.plan import Plan
from bench.record import record_plan
from bench.rehearsal import rehearse
from bench.reuse import Reuse
from results import Store
from routers.errors import RequestError
from suites.selftest import self_test


@dataclass(frozen=True)
class Failure:
    """A trial or a measurement that gave no result; `what` is "training" or the suite."""

    task: Task
    what: str
    status: str
    error: str


@dataclass
class Tally:
    """Listens to a run, and counts."""

    trained: int = 0
    reused: int = 0
    measured: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Ended(task, status, _, error) | Reused(task, status, error):
                self.trained += isinstance(event, Ended) and status == "done"
                self.reused += isinstance(event, Reused) and status == "done"
                if status != "done":
                    self.failures.append(Failure(task, "training", status, error or ""))
            case Measured(task, suite, "failed", _, error):
                self.failures.append(Failure(task, suite, "failed", error or ""))
            case Measured(_, _, status, _, _):
                self.measured += status == "done"
                self.skipped += status == "skipped"


def run(plan: Plan, store: Store, home: Path, datasets: Datasets, tell: Listener) -> Tally:
    """Do a plan; what is done already is reused, and every result is written when it is known.

    Raises:
        RequestError: a trial that cannot be trained as asked for; nothing has been trained then.
        BenchError: the self-test fails; nothing has been trained then.
    """
    tally = Tally()

    def listen(event: Event) -> None:
        tally(event)
        tell(event)

    device = best_device()
    machine_id = store.machine(prepared_machine())
    work = Workplace(
        store, home, datasets, device, machine_id, store.code_version(code_version()), listen
    )
    jobs = list(jobs_of(plan, Reuse(store, home, machine_id)))
    if not all(job.idle for job in jobs):
        self_test()
        refuse_untrainable(jobs, datasets, device)
    run_here(jobs, record_plan(plan, store), work)
    return tally


def refuse_untrainable(jobs: Iterable[Job], datasets: Datasets, device: torch.device) -> None:
    """Rehearse each training once, whatever the number of its seeds.

    Raises:
        RequestError: one cannot be trained as it was asked for; it names the trial.
    """
    for job in _distinct(jobs):
        try:
            rehearse(job.planned.spec, datasets, device)
        except RequestError as error:
            raise RequestError(f"{job.task.name}: {error}") from error
        except (Exception, SystemExit):
            continue  # no mistake in the request: it costs its own trial alone, and is told there


def _distinct(jobs: Iterable[Job]) -> Iterable[TrialJob]:
    trials = [job for job in jobs if isinstance(job, TrialJob) and job.decision.train]
    return {canonical(job.planned.spec.condition()): job for job in trials}.values()
