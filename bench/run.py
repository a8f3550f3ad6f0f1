"""A plan done: its trials trained and measured, its layers measured, what is done reused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.datasets import Datasets
from bench.execute.events import Begun, OnEvent, Progress, RunSummary
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.runner import Runner, RunOptions
from bench.plan import Plan, Planned
from bench.record import Rows, record_plan
from results import Store


def run(
    plan: Plan,
    store: Store,
    home: Path,
    datasets: Datasets,
    on_event: OnEvent,
    options: RunOptions | None = None,
) -> RunSummary:
    """Do a plan; what is done already is reused, and every result is written when it is known.

    Raises:
        RequestError: a device that is not there, or a trial that cannot be trained as asked for;
            nothing has been trained then.
        KeyboardInterrupt: at the second Ctrl-C.
        StoreError: the database cannot be written any more.
    """
    runner = Runner(store, home, datasets, on_event, options or RunOptions())
    reuse = runner.reuse
    jobs = tuple(jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers)))
    return runner.run(PlannedJobs(plan, jobs, store, runner.emit))


@dataclass(frozen=True)
class PlannedJobs:
    """The `JobSource` of a plan: all jobs are known when the run begins, and none is pruned.

    Attributes:
        jobs: idle ones too.
        emit: called with each event.
    """

    plan: Plan
    jobs: tuple[Job, ...]
    store: Store
    emit: OnEvent

    @property
    def study(self) -> str:
        return self.plan.request.study

    @cached_property
    def children(self) -> dict[str, list[Planned]]:
        children: dict[str, list[Planned]] = defaultdict(list)
        for planned in self.plan.trials:
            if planned.fingerprint.parent is not None:
                children[planned.fingerprint.parent].append(planned)
        return children

    def pending(self) -> list[Job]:
        return [job for job in self.jobs if not job.idle]

    def record(self) -> Rows:
        return record_plan(self.plan, self.store)

    def begin(self, run_id: int, workers: int) -> list[Job]:
        pending = self.pending()
        trials = tuple(job.task for job in pending if isinstance(job, TrialJob))
        idle = [job for job in self.jobs if isinstance(job, TrialJob) and job.idle]
        layers = sum(isinstance(job, LayerJob) for job in pending)
        self.emit(Begun(trials, reused=len(idle), layers=layers, jobs=workers))
        for job in idle:
            if job.reused is not None:
                self.emit(job.reused)
        return pending

    def why_prune(self, job: Job, progress: Progress) -> None:
        return None

    def following(self, job: Job) -> Iterable[Job]:
        return ()
