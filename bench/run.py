"""A whole run: write the plan down, check what can be checked, do what is not done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.datasets import Datasets
from bench.environment import code_version
from bench.execute.assignment import Surroundings
from bench.execute.desk import Desk
from bench.execute.devices import CPU, devices, slots
from bench.execute.events import Begun, Event, Listener, Reused
from bench.execute.fork_server import fork_server
from bench.execute.hands import Hands, Here, Tell
from bench.execute.interrupts import Interrupts
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.plugins import hashes_of
from bench.execute.schedule import Schedule
from bench.execute.workplace import Workplace, prepared_machine
from bench.fingerprint import canonical
from bench.plan import Plan, Planned
from bench.record import record_plan
from bench.rehearsal import rehearse
from bench.reuse import Retry, Reuse
from bench.tally import Tally
from results import Run, Store, StoreError
from results.liveness import this_process
from routers.errors import RequestError
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
    save_every: float = 60
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

    def listen(event: Event) -> None:
        tally(event)
        tell(event)

    places = slots(how.jobs, how.devices) or devices(how.devices)[:1]
    machine_id, code_id = store.machine(prepared_machine()), store.code_version(code_version())
    reuse = Reuse(store, home, machine_id, how.retry)
    jobs = list(jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers)))
    todo = [job for job in jobs if not job.idle]
    if todo:
        if how.jobs != 0:
            fork_server()  # it loads while this process goes on
        self_test()
        refuse_untrainable(todo, datasets)
    rows = record_plan(plan, store)
    with Interrupts() as interrupts:
        run_id = store.start_run(
            store.find_study(plan.request.study).id,
            Run(*this_process(), command=how.command, jobs=len(places)),
        )
        try:
            desk = Desk(store, home, reuse, rows, run_id, machine_id, code_id, _children(plan))
            _tell_begun(jobs, len(places), listen)
            if todo:
                schedule = Schedule(todo, desk, listen, interrupts)
                hands = _hands(how, places, desk, datasets, schedule.hear, interrupts.asked)
                tally.left = schedule.run(hands)
        finally:
            with suppress(StoreError):  # what is held is free again when this process ends
                store.finish_run(run_id)
    return tally


def refuse_untrainable(jobs: Iterable[Job], datasets: Datasets) -> None:
    """Rehearse each training once, whatever the number of its seeds.

    Raises:
        RequestError: one cannot be trained as it was asked for; it names the trial.
    """
    for job in _distinct(jobs):
        try:
            rehearse(job.planned.spec, datasets, torch.device("cpu"))
        except RequestError as error:
            raise RequestError(f"{job.task.name}: {error}") from error
        except (Exception, SystemExit):
            continue  # no mistake in the request: it costs its own trial alone, and is told there


def _distinct(jobs: Iterable[Job]) -> Iterable[TrialJob]:
    trials = [job for job in jobs if isinstance(job, TrialJob) and job.decision.train]
    return {canonical(job.planned.spec.condition()): job for job in trials}.values()


def _children(plan: Plan) -> dict[str, list[Planned]]:
    """What is derived from each trial."""
    children: dict[str, list[Planned]] = defaultdict(list)
    for planned in plan.trials:
        if planned.fingerprint.parent is not None:
            children[planned.fingerprint.parent].append(planned)
    return children


def _tell_begun(jobs: Sequence[Job], workers: int, tell: Listener) -> None:
    idle = [job for job in jobs if isinstance(job, TrialJob) and job.idle]
    tell(
        Begun(
            tuple(job.task for job in jobs if isinstance(job, TrialJob) and not job.idle),
            reused=len(idle),
            layers=sum(isinstance(job, LayerJob) and not job.idle for job in jobs),
            jobs=workers,
        )
    )
    for job in idle:
        if job.decision.attempt is not None:
            tell(Reused(job.task, job.decision.attempt.status, job.decision.reason))


def _hands(
    how: How,
    places: tuple[str, ...],
    desk: Desk,
    datasets: Datasets,
    tell: Tell,
    stop: Callable[[], bool],
) -> Hands:
    ids = (desk.machine_id, desk.code_id)
    if how.jobs == 0:
        device = torch.device("cpu" if places[0] == CPU else "cuda")
        place = Workplace(
            *(desk.store, desk.home, datasets, device, *ids),
            tell=lambda event: tell(0, event),
            save_every=how.save_every,
            stop=stop,
        )
        return Here(places[0], place)
    from bench.execute.workers import Workers  # with all that a worker needs

    url = desk.store.engine.url.render_as_string(hide_password=False)
    plugins, handed = hashes_of(how.plugins), datasets.hand(desk.home / "data")
    shared = Surroundings(url, desk.home, plugins, *ids, handed, how.save_every)
    return Workers(places, shared, how.timeout, tell)
