"""A whole run: write the plan down, check what can be checked, do what is not done."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.datasets import Datasets
from bench.environment import code_version
from bench.execute.assignment import Surroundings
from bench.execute.crew import Apart, Crew, InProcess
from bench.execute.desk import Desk
from bench.execute.devices import slots
from bench.execute.events import Begun, Event, Listener, Opened
from bench.execute.fork_server import fork_server
from bench.execute.interrupts import Interrupts
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.opened import OPENED
from bench.execute.plugins import hashes_of
from bench.execute.rehearsing import refuse_untrainable
from bench.execute.schedule import Schedule
from bench.execute.workplace import prepared_machine
from bench.forecast import Seen, seen_on
from bench.plan import Plan, Planned
from bench.record import record_plan
from bench.reuse import Retry, Reuse
from bench.tally import Tally
from bench.train import SAVE_EVERY
from results import Run, Store, StoreError
from results.liveness import this_process
from suites.selftest import self_test


@dataclass(frozen=True)
class How:
    """How a plan is done; nothing here changes a result.

    Attributes:
        jobs: workers; None takes one a device, on a CPU one a core. 0 works in this process.
        devices: those to work on; none takes all.
        timeout: seconds for one job; None lets it take what it takes.
        save_every: seconds between two checkpoints of a training.
        retry: which trials that gave no result are tried again.
        plugins: the user's files that were loaded.
        command: as it was given.
    """

    jobs: int | None = None
    devices: tuple[str, ...] = ()
    timeout: float | None = None
    save_every: float = SAVE_EVERY
    retry: Retry = None
    plugins: tuple[Path, ...] = ()
    command: str = ""


def run(
    plan: Plan, store: Store, home: Path, datasets: Datasets, tell: Listener, how: How | None = None
) -> Tally:
    """Do a plan; what is done already is reused, and every result is written when it is known.

    Raises:
        RequestError: a device that is not there, or a trial that cannot be trained as asked for;
            nothing has been trained then.
        BenchError: the self-test fails; nothing has been trained then.
        KeyboardInterrupt: at the second Ctrl-C.
        StoreError: the database cannot be written any more.
    """
    how, tally = how or How(), Tally()
    listen = listener(tally, tell)

    places = slots(how.jobs, how.devices)
    machine = prepared_machine()
    machine_id, code_id = store.machine(machine), store.code_version(code_version())
    reuse = Reuse(store, home, machine_id, how.retry)
    jobs = list(jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers)))
    todo = [job for job in jobs if not job.idle]
    crew: Crew | None = None
    if todo:
        crew = crew_of(how, places, store, home, datasets, machine_id, code_id)
        self_test()
        refuse_untrainable(todo, crew.stage)
    rows = record_plan(plan, store)
    with Interrupts() as interrupts, run_row(plan.request.study, store, how, len(places)) as run_id:
        earlier = seen_on(store, machine) if todo else Seen()
        _tell_begun(jobs, len(places), earlier, listen)
        if crew is not None:
            desk = Desk(store, home, reuse, rows, run_id, machine_id, code_id, _children(plan))
            schedule = Schedule(todo, desk, listen, interrupts)
            tally.left = schedule.run(crew.hands(schedule.hear, interrupts.asked))
    return tally


def listener(tally: Tally, tell: Listener) -> Listener:
    """Count each event, then tell it; a display that fails ends no run, and is told no more."""
    broken = False

    def listen(event: Event) -> None:
        nonlocal broken
        tally(event)
        if isinstance(event, Opened):
            OPENED.add(event.files)
        try:
            if not broken:
                tell(event)
        except (Exception, SystemExit) as error:  # a closed terminal or pipe, a full disk
            broken = True
            with suppress(OSError):
                print(f"warning: nothing more is shown here: {error!r}", file=sys.stderr)

    return listen


def crew_of(
    how: How,
    places: tuple[str, ...],
    store: Store,
    home: Path,
    datasets: Datasets,
    machine_id: int,
    code_id: int,
) -> Crew:
    ids = (machine_id, code_id)
    if how.jobs == 0:
        return InProcess(places[0], store, home, datasets, *ids, how.save_every)
    fork_server()  # it loads while this process goes on
    url = store.engine.url.render_as_string(hide_password=False)
    plugins, handed = hashes_of(how.plugins), datasets.hand(home / "data")
    shared = Surroundings(url, home, plugins, *ids, handed, how.save_every)
    return Apart(places, shared, how.timeout)


@contextmanager
def run_row(study: str, store: Store, how: How, workers: int) -> Iterator[int]:
    """The run's row, until it ends."""
    process = Run(*this_process(), command=how.command, jobs=workers)
    run_id = store.start_run(store.find_study(study).id, process)
    try:
        yield run_id
    finally:
        with suppress(StoreError):  # what is held is free again when this process ends
            store.finish_run(run_id)


def _children(plan: Plan) -> dict[str, list[Planned]]:
    """What is derived from each trial."""
    children: dict[str, list[Planned]] = defaultdict(list)
    for planned in plan.trials:
        if planned.fingerprint.parent is not None:
            children[planned.fingerprint.parent].append(planned)
    return children


def _tell_begun(jobs: Sequence[Job], workers: int, earlier: Seen, tell: Listener) -> None:
    idle = [job for job in jobs if isinstance(job, TrialJob) and job.idle]
    tell(
        Begun(
            tuple(job.task for job in jobs if isinstance(job, TrialJob) and not job.idle),
            reused=len(idle),
            layers=sum(isinstance(job, LayerJob) and not job.idle for job in jobs),
            jobs=workers,
            works={job.task: job.work for job in jobs if not job.idle},
            earlier=earlier,
        )
    )
    for job in idle:
        if job.reused is not None:
            tell(job.reused)
