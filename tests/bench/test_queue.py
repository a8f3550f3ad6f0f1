"""The queue of a run that shares its jobs: others' leases and results, read in few queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.config.presets import load_preset
from bench.data.registry import Datasets
from bench.execute import queue
from bench.execute.context import RunContext, RunOptions
from bench.execute.jobs import JobStore, jobs_of
from bench.execute.queue import Item, Queue
from bench.plan.plan import Plan, make_plan, make_request
from bench.plan.registration import record_plan
from bench.plan.reuse import Reuse
from results import CodeVersion, Machine, Store
from results.store.leases import this_process
from results.store.records import Run

MACHINE = Machine("host", "system", "processor", 2, 1, 10**9)
CODE = CodeVersion(None, False, "3.11", {})


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan of six seeds of the dense baseline, and no suite."""
    request = make_request(load_preset("smoke"), routers=["dense"], seeds=6, suites=["accuracy"])
    made = make_plan(request, Datasets())
    return replace(made, trials=tuple(replace(each, suites=()) for each in made.trials), layers=())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "ASK_AGAIN", 0.0)


def started(store: Store, plan: Plan, home: Path) -> tuple[JobStore, Queue]:
    """Start a run of the plan; return its job store and its queue."""
    rows = record_plan(plan, store)
    machine, code = store.machine(MACHINE), store.code_version(CODE)
    context = RunContext(str(home), home, RunOptions(), {}, machine, code)
    run = store.start_run(store.find_study("smoke").id, Run(*this_process(), command="", jobs=1))
    reuse = Reuse(store, home, machine)
    jobs = jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers))
    job_store = JobStore(store, context, run, reuse, rows)
    return job_store, Queue([job for job in jobs if not job.idle], job_store)


def take(job_store: JobStore, item: Item) -> tuple[int, int]:
    """Lease a job and begin its training; return the lease and the attempt."""
    lease = job_store.lease(item.job)
    assert lease is not None
    attempt = job_store.begin(item.job, "cpu").attempt
    assert attempt is not None
    return lease, attempt


def finish(job_store: JobStore, lease: int, attempt: int) -> None:
    job_store.store.finish_attempt(attempt, "done", checkpoint="gone")
    job_store.store.release(lease)


def ready(queue: Queue) -> Item:
    item = queue.first_ready([], [])
    assert item is not None
    return item


def test_a_single_run_works_in_the_order_of_the_plan(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    _, alone = started(store, plan, tmp_path)
    assert list(alone.refresh()) == []
    seeds = []
    while alone:
        item = ready(alone)
        seeds.append(item.job.task.seed)
        alone.remove(item)
    assert seeds == sorted(seeds)
    assert len(seeds) == 6


def test_jobs_leased_by_others_are_skipped_and_their_finished_jobs_leave_the_queue(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    others, theirs = started(store, plan, tmp_path)
    _, own = started(store, plan, tmp_path)
    held = ready(theirs)
    lease, attempt = take(others, held)
    queue.ASK_AGAIN = 60.0  # jobs that they hold stay set aside
    assert list(own.refresh()) == []
    drawn = {ready(own).job.fingerprint for _ in range(50)}
    assert len(drawn) == 2  # each of two runs draws from two items
    assert held.job.fingerprint not in drawn

    queue.ASK_AGAIN = 0.0
    finish(others, lease, attempt)
    (over,) = own.refresh()
    assert over.fingerprint == held.job.fingerprint
    assert over.idle
    assert len(own) == 5


def test_jobs_begun_and_finished_between_two_refreshes_leave_the_queue(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    others, theirs = started(store, plan, tmp_path)
    _, own = started(store, plan, tmp_path)
    for _ in range(3):
        item = ready(theirs)
        theirs.remove(item)
        finish(others, *take(others, item))
    assert [job.task.seed for job in own.refresh()] == [0, 1, 2]


def test_jobs_that_another_run_abandoned_stay_in_the_queue(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    others, theirs = started(store, plan, tmp_path)
    _, own = started(store, plan, tmp_path)
    lease, attempt = take(others, ready(theirs))
    store.finish_attempt(attempt, "interrupted")
    store.release(lease)
    assert list(own.refresh()) == []
    assert len(own) == 6
    assert ready(own).job.task.seed == 0


def test_a_job_that_could_not_be_leased_is_tried_later(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    others, theirs = started(store, plan, tmp_path)
    mine, own = started(store, plan, tmp_path)
    lease, attempt = take(others, ready(theirs))
    first = next(iter(own._items))
    assert mine.lease(first.job) is None
    queue.ASK_AGAIN = 60.0
    own.set_aside(first)
    assert ready(own) is not first
    queue.ASK_AGAIN = 0.0
    finish(others, lease, attempt)
    assert [job.task.seed for job in own.refresh()] == [0]
