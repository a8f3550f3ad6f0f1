from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sqlalchemy import select

from results import (
    Array,
    CodeVersion,
    Component,
    Machine,
    Metric,
    Store,
    StoreError,
    Subject,
    connect,
    open_store,
)
from results.models import ArrayRow, AttemptRow, ComponentRow, MeasurementRow, MetricRow, TrialRow
from results.text import to_json

MACHINE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})
ROUTER = Component("router", "soft_moe", "class SoftMoE: ...", "h1", metrics=[{"name": "x"}])


def count(store: Store, row: type) -> int:
    with store.reading() as session:
        return len(session.scalars(select(row)).all())


def values(store: Store, measurement: int) -> list[float]:
    with store.reading() as session:
        query = select(MetricRow.value).filter_by(measurement_id=measurement)
        return list(session.scalars(query.order_by(MetricRow.id)))


def test_equal_records_share_one_row(store: Store) -> None:
    assert store.machine(MACHINE) == store.machine(replace(MACHINE))
    assert store.machine(MACHINE) != store.machine(replace(MACHINE, threads=2))
    assert store.code_version(CODE) == store.code_version(replace(CODE))
    assert store.code_version(CODE) != store.code_version(replace(CODE, diff="+1"))
    assert store.components([ROUTER])[0] == store.components([replace(ROUTER)])[0]
    assert store.components([ROUTER])[0] != store.components([replace(ROUTER, summary="other")])[0]


def test_a_component_is_stored_as_it_was(store: Store) -> None:
    component = store.components([ROUTER])[0]
    with store.reading() as session:
        row = session.get_one(ComponentRow, component)
        assert row.source_text == "class SoftMoE: ..."
        assert row.metrics == [{"name": "x"}]
        assert row.hyper == []
        assert row.source_hash == "h1"


def test_a_trial_is_identified_by_its_fingerprint(store: Store, description: Callable) -> None:
    router = store.components([ROUTER])[0]
    trial = store.trials([Subject("f1", description(), components=[router])])[0]
    assert store.trials([Subject("f1", description(), components=[router])])[0] == trial
    child = store.trials([Subject("f2", description(), parent="f1", transform="distilled")])[0]
    with store.reading() as session:
        row = session.get_one(TrialRow, trial)
        assert row.description == description()
        assert [part.id for part in row.components] == [router]
        assert session.get_one(TrialRow, child).parent_id == trial


def test_an_attempt_is_stored_from_its_beginning_to_its_end(filler) -> None:
    store = filler.store
    before = datetime.now(UTC)
    trial = store.trials([Subject("f1", {"seed": 0})])[0]
    assert store.last_attempt("f1") is None
    first = store.begin_attempt(trial, filler.machine, filler.code, log="logs/1.txt")
    running = store.last_attempt("f1")
    assert running is not None
    assert (running.id, running.status, running.finished_at) == (first, "running", None)
    store.finish_attempt(first, "failed", error="boom", traceback="Traceback …")
    second = store.begin_attempt(trial, filler.machine, filler.code)
    assert store.done_attempt("f1") is None
    store.finish_attempt(
        second,
        "done",
        flops=1.5e18,
        steps=2**40,
        seconds=3.5,
        checkpoint="checkpoints/f1.safetensors",
        checkpoint_sha256="0" * 64,
    )
    done = store.done_attempt("f1")
    assert done is not None
    assert done == store.last_attempt("f1")
    assert (done.id, done.fingerprint, done.status) == (second, "f1", "done")
    assert (done.flops, done.steps, done.seconds) == (1.5e18, 2**40, 3.5)
    assert done.finished_at is not None
    assert before <= done.started_at <= done.finished_at <= datetime.now(UTC)
    assert count(store, AttemptRow) == 2


def test_an_attempt_can_end_only_once(filler) -> None:
    store = filler.store
    attempt = store.begin_attempt(store.trials([Subject("f1", {})])[0], filler.machine, filler.code)
    with pytest.raises(StoreError, match=r"no such status: 'don'; did you mean 'done'"):
        store.finish_attempt(attempt, "don")  # type: ignore[arg-type]
    store.finish_attempt(attempt, "diverged")
    with pytest.raises(StoreError, match=rf"attempt {attempt} is already diverged"):
        store.finish_attempt(attempt, "done")
    with pytest.raises(StoreError, match=r"attempt 77 does not exist"):
        store.finish_attempt(77, "done")


def test_measurements_of_attempts_and_layers_are_listed(filler) -> None:
    store, machine, code = filler.store, filler.machine, filler.code
    first, second = (
        store.begin_attempt(store.trials([Subject(name, {})])[0], machine, code)
        for name in ("f1", "f2")
    )
    layer = store.layers([Subject("l1", {})])[0]
    other = store.machine(replace(MACHINE, threads=2))
    options = {"shapes": ("A", "B"), "repeats": 3}
    store.record_measurement("accuracy", options, "h1", machine, code, attempt_id=first)
    store.record_measurement("accuracy", {}, "h2", other, code, attempt_id=first)
    store.record_measurement(
        "balance", {}, "h1", machine, code, attempt_id=first, status="skipped", error="dense"
    )
    store.record_measurement("throughput", {}, "h1", machine, code, layer_id=layer)
    store.record_measurement("throughput", {"seconds": 1.5}, "h1", other, code, layer_id=layer)
    store.record_measurement(
        "balance", {}, "h1", machine, code, attempt_id=second, status="failed", error="boom"
    )
    assert store.measured([first, second, 77]) == {
        first: {
            ("accuracy", to_json({"repeats": 3, "shapes": ["A", "B"]}), "h1"),
            ("accuracy", "{}", "h2"),
            ("balance", "{}", "h1"),
        }
    }
    assert store.measured_layers(["l1", "l2"], machine) == {"l1": {("throughput", "{}", "h1")}}
    timed = {("throughput", '{"seconds":1.5}', "h1")}
    assert store.measured_layers(["l1"], other) == {"l1": timed}
    assert store.measured_layers(["l1"], other + 1) == {}
    assert store.measured([]) == {}


def test_attempts_can_be_read_for_more_trials_than_one_query_takes(filler, monkeypatch) -> None:
    monkeypatch.setattr(connect, "CHUNK", 2)
    store = filler.store
    names = [f"f{number}" for number in range(5)]
    trials = store.trials([Subject(name, {"seed": 0}) for name in names])
    assert store.trials([Subject(name, {}) for name in names]) == trials
    made = {}
    for name, trial in zip(names, trials, strict=True):
        for _ in range(2):
            made.setdefault(name, []).append(
                store.begin_attempt(trial, filler.machine, filler.code)
            )
            store.finish_attempt(made[name][-1], "failed")
    tried = store.attempts([*names, "never"])
    assert {name: [each.id for each in tried[name]] for name in tried} == made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(numbers=st.lists(st.floats() | st.integers(-(2**53), 2**53), min_size=1, max_size=20))
def test_every_float_survives(filler, numbers: list[float]) -> None:
    store = filler.store
    measurement = store.record_measurement(
        "accuracy",
        {},
        "h1",
        filler.machine,
        filler.code,
        layer_id=store.layers([Subject("l1", {})])[0],
        metrics=[Metric("x", number) for number in numbers],
    )
    np.testing.assert_array_equal(values(store, measurement), np.asarray(numbers, dtype=float))


def test_numpy_numbers_are_accepted(filler) -> None:
    store = filler.store
    metrics = [
        Metric("x", np.float32(0.5)),
        Metric("x", np.float32("nan")),
        Metric("x", np.int64(3)),
    ]
    measurement = store.record_measurement(
        "a",
        {},
        "h",
        filler.machine,
        filler.code,
        layer_id=store.layers([Subject("l", {})])[0],
        metrics=metrics,
    )
    np.testing.assert_array_equal(values(store, measurement), [0.5, math.nan, 3.0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    array=hnp.arrays(
        hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_keep_type_shape_and_bits(filler, array: np.ndarray) -> None:
    store = filler.store
    measurement = store.record_measurement(
        "entropy",
        {},
        "h1",
        filler.machine,
        filler.code,
        layer_id=store.layers([Subject("l1", {})])[0],
        arrays=[Array("class_expert", array, layer=1, where={"of": "gates"})],
    )
    with store.reading() as session:
        row = session.scalars(select(ArrayRow).filter_by(measurement_id=measurement)).one()
        assert (row.values.dtype, row.values.shape) == (array.dtype, array.shape)
        assert row.values.tobytes() == array.tobytes()
        assert (row.layer, row.where) == (1, {"of": "gates"})


@pytest.mark.parametrize(
    ("metrics", "arrays", "message"),
    [
        ([Metric("x", 1.0, where={"a": math.nan})], [], r"not plain JSON.*nan"),
        ([Metric("x", 1.0, where={"a": object()})], [], r"not plain JSON.*object"),
        ([], [Array("x", np.array([object()]))], r"type object cannot be stored"),
        ([Metric("x", "high")], [], r"could not convert string to float"),  # type: ignore[arg-type]
    ],
)
def test_a_measurement_is_written_completely_or_not_at_all(
    filler, metrics, arrays, message
) -> None:
    store = filler.store
    layer = store.layers([Subject("l1", {})])[0]
    with pytest.raises(StoreError, match=message):
        store.record_measurement(
            "accuracy",
            {},
            "h1",
            filler.machine,
            filler.code,
            layer_id=layer,
            metrics=[Metric("fine", 1.0), *metrics],
            arrays=arrays,
        )
    assert count(store, MeasurementRow) == count(store, MetricRow) == count(store, ArrayRow) == 0


def test_a_measurement_must_have_exactly_one_existing_subject(filler) -> None:
    store = filler.store
    layer = store.layers([Subject("l1", {})])[0]
    attempt = store.begin_attempt(store.trials([Subject("f1", {})])[0], filler.machine, filler.code)
    for subject in ({}, {"layer_id": layer, "attempt_id": attempt}):
        with pytest.raises(StoreError, match="one_subject"):
            store.record_measurement("a", {}, "h", filler.machine, filler.code, **subject)
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        store.record_measurement("a", {}, "h", filler.machine, filler.code, layer_id=layer + 1)


def test_one_measurement_can_have_thousands_of_metrics(filler) -> None:
    store = filler.store
    metrics = [
        Metric("load_cv", index / 7, layer=index % 12, step=index, split="test", where={"i": index})
        for index in range(5000)
    ]
    measurement = store.record_measurement(
        "a",
        {},
        "h",
        filler.machine,
        filler.code,
        layer_id=store.layers([Subject("l", {})])[0],
        metrics=metrics,
    )
    assert values(store, measurement) == [metric.value for metric in metrics]


def test_studies_can_share_trials(filler) -> None:
    store = filler.store
    first, second = store.study("a", {"n": 1}), store.study("b", {})
    trials = [store.trials([Subject(f"f{index}", {})])[0] for index in range(3)]
    layer = store.layers([Subject("l", {})])[0]
    store.add_trial_to_study(first, *trials)
    store.add_trial_to_study(first, trials[0])
    store.add_trial_to_study(second, trials[0])
    store.add_layer_to_study(second, layer)
    assert store.study("a", {"n": 2}) == first
    b, a = store.studies()
    assert (a.name, a.request, a.trials, a.layers) == ("a", {"n": 2}, 3, 0)
    assert (b.name, b.request, b.trials, b.layers) == ("b", {}, 1, 1)
    assert a.created_at < b.created_at < a.requested_at
    assert store.find_study("a") == store.find_study() == a
    with pytest.raises(StoreError, match=r"no study 'c' in .*; available: a, b"):
        store.find_study("c")


def test_rows_persist_after_reopening(target: str) -> None:
    with open_store(target) as store:
        study = store.study("tiny", {"preset": "tiny"})
    with open_store(target) as store:
        assert store.find_study("tiny").id == study


def test_importing_the_package_loads_neither_pandas_nor_torch() -> None:
    check = "import sys, results; print(sorted({'pandas', 'torch', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
