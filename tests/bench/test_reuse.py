"""How the status of a trial's attempts and `--retry` decide what a run does with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import event

from bench.config.presets import load_preset
from bench.data.registry import Datasets
from bench.plan.plan import Plan, make_plan, make_request
from bench.plan.registration import record_plan
from bench.plan.reuse import Decision, Retry, Reuse
from results import CodeVersion, Machine, Metric, Store
from tests.bench.conftest import leave_outcome

MACHINE = Machine("host", "system", "processor", 2, 1, 10**9)
CODE = CodeVersion(None, False, "3.11", {})
DATA = Datasets()


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan of two seeds of the dense baseline, four suites on each, and one bare layer."""
    suites = ["accuracy", "balance", "entropy", "specialization", "throughput"]
    request = make_request(load_preset("smoke"), routers=["dense"], seeds=2, suites=suites)
    return make_plan(request, DATA)


def tried(store: Store, plan: Plan, *statuses: str, checkpoint: str | None = None) -> None:
    """Make attempts at the plan's first trial, one after the other."""
    machine, code = store.machine(MACHINE), store.code_version(CODE)
    trial = record_plan(plan, store)[plan.trials[0].fingerprint.value]
    for status in statuses:
        attempt = store.begin_attempt(trial, machine, code)
        if status != "running":
            error = None if status == "done" else "boom\nat length"
            store.finish_attempt(attempt, status, error=error, checkpoint=checkpoint)


def decided(store: Store, plan: Plan, retry: Retry = None, home: Path = Path()) -> Decision:
    return Reuse(store, home, None, retry).trials(plan.trials)[0]


ENDED = {
    "failed": ("it failed: boom; --retry failed tries again", "failed"),
    "out_of_memory": ("it ran out of memory: boom; --retry failed tries again", "failed"),
    "timed_out": ("it timed out: boom; --retry timed_out tries again", "timed_out"),
    "diverged": ("it diverged: boom; --retry all tries again", None),
}


@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize("retry", [None, "failed", "timed_out", "all"])
def test_only_the_statuses_given_to_retry_are_tried_again(
    store, plan, status: str, retry: Retry
) -> None:
    tried(store, plan, status)
    reason, asked = ENDED[status]
    decision = decided(store, plan, retry)
    if retry == "all" or (retry == asked and retry is not None):
        again = f"tried again; last time {reason.split(';')[0]}"
        assert decision == Decision(True, again, plan.trials[0].suites)
    else:
        last = store.last_attempt(plan.trials[0].fingerprint.value)
        assert decision == Decision(False, reason, attempt=last)


def test_a_requeued_worker_does_not_retry_a_trial_a_third_time(store, plan, tmp_path) -> None:
    tried(store, plan, "failed")
    submitted = store.newest()
    first = Reuse(store, tmp_path, None, "failed", submitted).trials(plan.trials)[0]
    assert first.reason.startswith("tried again; last time it failed")
    tried(store, plan, "failed")
    again = Reuse(store, tmp_path, None, "failed", submitted).trials(plan.trials)[0]
    assert not again.train
    assert Reuse(store, tmp_path, None, "failed").trials(plan.trials)[0].train


def test_an_error_without_a_message_is_reported_by_its_status(store: Store, plan: Plan) -> None:
    tried(store, plan, "running")
    last = store.last_attempt(plan.trials[0].fingerprint.value)
    assert last is not None
    store.finish_attempt(last.id, "timed_out")
    assert decided(store, plan).reason == "it timed out; --retry timed_out tries again"


@pytest.mark.parametrize("statuses", [("running",), ("interrupted",), ("failed", "interrupted")])
@pytest.mark.parametrize("retry", [None, "failed"])
def test_interrupted_trials_resume_whatever_retry_says(store, plan, statuses, retry) -> None:
    machine, code = store.machine(MACHINE), store.code_version(CODE)
    tried(store, plan, *statuses)
    reason = "continues an interrupted attempt"
    assert decided(store, plan, retry) == Decision(True, reason, plan.trials[0].suites)
    last = store.last_attempt(plan.trials[0].fingerprint.value)
    assert last is not None
    assert store.begin_attempt(store.find_trial(last.fingerprint).id, machine, code) == last.id


@pytest.mark.parametrize(
    "order",
    [
        ("done",),
        ("failed", "done"),
        ("done", "failed"),
        ("done", "interrupted"),
        ("done", "running"),
    ],
)
def test_a_done_attempt_counts_whatever_came_before_or_after(store, plan, order) -> None:
    tried(store, plan, *order)
    done = store.done_attempt(plan.trials[0].fingerprint.value)
    assert done is not None
    measured(store, plan, done.id)
    same = Decision(False, "same description, data and source", (), done)
    assert decided(store, plan, "all") == same


def measured(store: Store, plan: Plan, attempt: int, count: int = 4) -> None:
    machine, code = store.machine(MACHINE), store.code_version(CODE)
    for suite in plan.trials[0].suites[:count]:
        store.record_measurement(
            suite.name, suite.options, suite.source_hash, machine, code, attempt_id=attempt
        )


def test_a_suite_without_a_measurement_is_due(store: Store, plan: Plan, tmp_path: Path) -> None:
    tried(store, plan, "done", checkpoint="weights")
    done = store.done_attempt(plan.trials[0].fingerprint.value)
    assert done is not None
    measured(store, plan, done.id, count=3)
    (tmp_path / "weights").touch()
    leave_outcome(tmp_path)
    decision = decided(store, plan, home=tmp_path)
    assert (decision.train, [suite.name for suite in decision.due]) == (False, ["specialization"])


def test_a_layer_is_measured_once_on_each_machine(store: Store, plan: Plan) -> None:
    rows = record_plan(plan, store)
    code, here = store.code_version(CODE), store.machine(MACHINE)
    there = store.machine(Machine("other", "system", "processor", 2, 1, 10**9))
    (layer,) = plan.layers
    (suite,) = layer.suites
    store.record_measurement(
        suite.name,
        suite.options,
        suite.source_hash,
        here,
        code,
        layer_id=rows[layer.fingerprint.value],
    )
    assert Reuse(store, Path(), here).layers(plan.layers) == [()]
    assert Reuse(store, Path(), there).layers(plan.layers) == [(suite,)]
    assert Reuse(store, Path(), None).layers(plan.layers) == [(suite,)]


@pytest.mark.parametrize("name", ["disturbed", "train_disturbed"])
def test_a_timing_taken_under_load_is_due_again_on_request(
    store: Store, plan: Plan, name: str
) -> None:
    rows = record_plan(plan, store)
    code, here = store.code_version(CODE), store.machine(MACHINE)
    (layer,) = plan.layers
    (suite,) = layer.suites

    def timed(disturbed: float, *, status: Literal["done", "failed"] = "done") -> None:
        store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            here,
            code,
            layer_id=rows[layer.fingerprint.value],
            status=status,
            metrics=[Metric("forward_ms", 2.0), Metric(name, disturbed)],
        )

    def due(retry: Retry) -> bool:
        return Reuse(store, Path(), here, retry).layers(plan.layers) == [(suite,)]

    timed(0)
    assert not due("noisy")
    timed(1)
    assert due("noisy")
    assert not any(due(retry) for retry in (None, "failed", "timed_out", "all"))
    reuse = Reuse(store, Path(), here, "noisy")
    timed(1, status="failed")
    assert reuse.layers(plan.layers) == [(suite,)]
    # Once repeated, the same run does not take it a third time, whatever the result.
    timed(1)
    assert reuse.layers(plan.layers) == [()]
    assert due("noisy")
    timed(0)
    assert not due("noisy")


def test_a_recorded_trial_without_attempts_is_new(store: Store, plan: Plan) -> None:
    record_plan(plan, store)
    assert [decision.reason for decision in Reuse(store, Path(), None).trials(plan.trials)] == [
        "new",
        "new",
    ]


def test_decisions_are_made_afresh_on_each_call(store: Store, plan: Plan) -> None:
    reuse = Reuse(store, Path(), None)
    assert [decision.reason for decision in reuse.trials(plan.trials)] == ["new", "new"]
    tried(store, plan, "failed")
    first, second = reuse.trials(plan.trials)
    assert (first.train, second.reason) == (False, "new")
    assert reuse.trials(plan.trials[:1]) == [first]


def test_the_number_of_queries_does_not_grow_with_the_plan(store: Store, plan: Plan) -> None:
    queries: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def count(connection, cursor, statement, *rest):
        queries.append(statement)

    def asked(*, seeds: int) -> tuple[int, int]:
        made = make_plan(make_request(load_preset("smoke"), routers=["dense"], seeds=seeds), DATA)
        record_plan(made, store)
        queries.clear()
        rows = record_plan(made, store)
        written = len(queries)
        assert len([each for each in made.trials if each.fingerprint.value in rows]) == seeds
        Reuse(store, Path(), 1).trials(made.trials)
        Reuse(store, Path(), 1).layers(made.layers)
        return written, len(queries) - written

    assert asked(seeds=30) == asked(seeds=2)
    assert len(store.all_trials()) == 30


def test_a_trial_matched_by_seconds_on_another_machine_is_not_reused(
    store: Store, plan: Plan
) -> None:
    """Whoever trained last: with a budget in seconds, each machine has its own result."""
    settings = {"compute.match": "wall_clock", "compute.seconds": 5}
    request = make_request(load_preset("smoke"), routers=["dense"], seeds=1, settings=settings)
    timed = make_plan(request, DATA)
    tried(store, timed, "done")
    here = store.machine(MACHINE)
    other = Machine("other", "system", "processor", 2, 1, 10**9)
    again = "its budget of seconds was spent on another machine"
    assert _whether(store, timed, here) == (False, "same description, data and source")
    assert _whether(store, timed, None) == (True, again)
    there = store.machine(other)
    assert _whether(store, timed, there) == (True, again)
    trial = record_plan(timed, store)[timed.trials[0].fingerprint.value]
    attempt = store.begin_attempt(trial, there, store.code_version(CODE))
    store.finish_attempt(attempt, "done")
    for machine in (here, there):
        assert _whether(store, timed, machine) == (False, "same description, data and source")
    tried(store, plan, "done")
    assert _whether(store, plan, there) == (False, "same description, data and source")


def _whether(store: Store, plan: Plan, machine: int | None) -> tuple[bool, str]:
    bare = replace(plan, trials=tuple(replace(each, suites=()) for each in plan.trials))
    decision = Reuse(store, Path(), machine).trials(bare.trials)[0]
    return decision.train, decision.reason
