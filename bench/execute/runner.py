"""One run, of a plan or a tuning: rehearsed, recorded, done by an executor and summarised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.config import TrialSpec
from bench.data import Datasets
from bench.environment import code_version
from bench.execute.context import Interrupts, RunContext, RunOptions, prepared_machine
from bench.execute.devices import refuse_few_gpus, slots
from bench.execute.events import Begun, Event, OnEvent, Opened, Progress, RunSummary
from bench.execute.executor import Executor, LocalExecutor
from bench.execute.failures import refuse_untrainable
from bench.execute.fork_server import fork_server
from bench.execute.jobs import Job, JobStore, jobs_of
from bench.execute.loop import JobLoop, JobSource
from bench.execute.plugins import OPENED, hashes_of
from bench.execute.processes import ProcessExecutor
from bench.measure import refuse_transfer
from bench.plan import Plan, Reuse, record_plan
from results import Run, Store, StoreError
from results.store.leases import this_process
from results.text import to_json
from suites import build_suite


class Runner:
    """One run, from its beginning to its end.

    Args:
        home: folder for everything that runs write.
        on_event: called with each event; if it fails, the run continues without it.
        ranks: the largest `train.ranks` of the trainings that are done here.

    Raises:
        RequestError: a device does not exist, or there are too few.

    Attributes:
        reuse: decides what is left to do of a job.
    """

    def __init__(
        self,
        store: Store,
        home: Path,
        datasets: Datasets,
        on_event: OnEvent,
        options: RunOptions,
        ranks: int = 1,
    ) -> None:
        self.slots = slots(options.jobs, options.devices, ranks)
        self.context = RunContext(
            store.engine.url.render_as_string(hide_password=False),
            home,
            options,
            hashes_of(options.plugins),
            store.machine(prepared_machine()),
            store.code_version(code_version()),
        )
        self.reuse = Reuse(
            *(store, home, self.context.machine_id, options.retry, options.newest),
            explain=not options.prepared,
        )
        self.summary = RunSummary()
        self._store, self._datasets = store, datasets
        self._on_event: OnEvent | None = on_event

    def run(self, source: JobSource) -> RunSummary:
        """Do all jobs of a source.

        Raises:
            RequestError: a trial cannot be trained as asked for; nothing has been trained.
            KeyboardInterrupt: at the second Ctrl-C.
            StoreError: the database can no longer be written.
        """
        interrupts, executor = Interrupts(), None
        if pending := source.pending():
            executor = self._executor(lambda: interrupts.reason is not None)
            if not self.context.options.prepared:
                self._check(pending, executor)
        rows = source.record()
        process = Run(*this_process(), command=self.context.options.command, jobs=len(self.slots))
        with interrupts:
            run_id = self._store.start_run(self._store.find_study(source.study).id, process)
            try:
                jobs = source.begin(run_id)
                if executor is not None:
                    job_store = JobStore(self._store, self.context, run_id, self.reuse, rows)
                    loop = JobLoop(jobs, source, job_store, executor, self.emit, interrupts)
                    self.summary.left = loop.run()
            finally:
                with suppress(StoreError):  # its leases are free again when this process ends
                    self._store.finish_run(run_id)
        return self.summary

    def prepare(self, source: JobSource) -> int:
        """Rehearse the jobs of a source and write its study, for others to do; return their number.

        Raises:
            RequestError: a trial cannot be trained as asked for.
        """
        pending = source.pending()
        if pending:
            self._check(pending, self._executor(lambda: False))
        source.record()
        return len(pending)

    def emit(self, event: Event) -> None:
        """Count an event and show it; a display that fails is dropped and does not end the run."""
        self.summary.add(event)
        if isinstance(event, Opened):
            OPENED.update(event.files)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except (Exception, SystemExit) as error:  # a closed terminal or pipe, a full disk
            self._on_event = None
            with suppress(OSError):
                print(f"warning: nothing more is shown here: {error!r}", file=sys.stderr)

    def _check(self, jobs: Sequence[Job], executor: Executor) -> None:
        """Refuse trials that cannot be trained, and transfer sets that do not fit their data."""
        refuse_untrainable(jobs, executor.preflight)
        once = {
            (suite.name, to_json(suite.options), job.planned.spec.data): suite.options
            for job in jobs
            for suite in job.due
        }
        for (name, _, data), options in once.items():
            suite = build_suite(name, **options)
            if suite.transfers():
                refuse_transfer(suite, self._datasets.get(data))

    def _executor(self, stop: Callable[[], bool]) -> Executor:
        if self.context.options.jobs == 0:
            return LocalExecutor(self.slots[0], self.context, self._store, self._datasets, stop)
        fork_server()  # it loads while this process continues
        datasets = self._datasets.share(self.context.home / "data")
        return ProcessExecutor(self.slots, self.context, datasets)


def most_ranks(specs: Iterable[TrialSpec]) -> int:
    """Return the largest number of ranks that share a training."""
    return max((spec.train.ranks for spec in specs), default=1)


def run_plan(
    plan: Plan,
    store: Store,
    home: Path,
    datasets: Datasets,
    on_event: OnEvent,
    options: RunOptions | None = None,
) -> RunSummary:
    """Carry out a plan; reuse what is done already, and write every result as it becomes known."""
    ranks = most_ranks(planned.spec for planned in plan.trials)
    runner = Runner(store, home, datasets, on_event, options or RunOptions(), ranks)
    return runner.run(_planned_jobs(plan, store, runner))


def prepare_plan(
    plan: Plan, store: Store, home: Path, datasets: Datasets, options: RunOptions, gpus: int
) -> int:
    """Check a plan and write it, for workers of an array; returns the number of its open jobs.

    Args:
        gpus: those of each worker; 0 where it computes on the CPU.

    Raises:
        RequestError: a trial cannot be trained as asked for.
    """
    refuse_few_gpus(most_ranks(planned.spec for planned in plan.trials), gpus)
    runner = Runner(store, home, datasets, lambda event: None, options)
    return runner.prepare(_planned_jobs(plan, store, runner))


def _planned_jobs(plan: Plan, store: Store, runner: Runner) -> PlannedJobs:
    reuse = runner.reuse
    jobs = tuple(jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers)))
    return PlannedJobs(plan, jobs, store, runner.emit, runner.context.options.prepared)


@dataclass(frozen=True)
class PlannedJobs:
    """The `JobSource` of a plan: all jobs are known when the run begins, and none is pruned.

    Attributes:
        jobs: all jobs of the plan, including those with nothing to do.
        emit: called with each event.
        prepared: whether another command has written the study, with these trials and layers.
    """

    plan: Plan
    jobs: tuple[Job, ...]
    store: Store
    emit: OnEvent
    prepared: bool

    @property
    def study(self) -> str:
        return self.plan.request.study

    def pending(self) -> list[Job]:
        return [job for job in self.jobs if not job.idle]

    def record(self) -> dict[str, int]:
        if self.prepared:  # a hundred workers need not write the same thousands of rows
            rows = self.store.rows(self.study)
            if all(job.fingerprint in rows for job in self.jobs):
                return rows
        return record_plan(self.plan, self.store)

    def begin(self, run_id: int) -> list[Job]:
        pending = self.pending()
        self.emit(Begun(len(pending)))
        for job in self.jobs:
            if job.idle and job.reused is not None:
                self.emit(job.reused)
        return pending

    def why_prune(self, job: Job, progress: Progress) -> None:
        return None

    def following(self, job: Job) -> Iterable[Job]:
        return ()
