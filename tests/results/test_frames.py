from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from results import Array, Component, Machine, Metric, Run, StoreError, Subject, describe
from results.frames import (
    METRIC_COLUMNS,
    arrays_of,
    components_frame,
    export,
    measurements_frame,
    metrics_frame,
    trials_frame,
)
from results.store.leases import this_process

Describe = Callable[..., dict[str, object]]

ACCURACY = Component(
    "suite",
    "accuracy",
    source_text="class Accuracy: ...",
    source_hash="h1",
    metrics=[{"name": "top1", "unit": "%", "better": "higher", "meaning": "right at first"}],
    main_metric="top1",
)


def measure(
    filler, attempt: int | None, value: float, *, suite: str = "accuracy", **changes
) -> int:
    origin = {"options": {}, "source_hash": "h1", "machine_id": filler.machine} | changes
    return filler.store.record_measurement(
        suite,
        code_id=filler.code,
        attempt_id=attempt,
        metrics=[Metric("top1", value, split="test")],
        **origin,
    )


def test_empty_frames_have_their_columns_and_types(filler) -> None:
    filler.store.study("tiny", {})
    full = metrics_frame(filler.store, "tiny")
    assert list(full.columns) == METRIC_COLUMNS
    assert (
        len(full) == len(trials_frame(filler.store)) == len(measurements_frame(filler.store)) == 0
    )
    assert len(components_frame(filler.store)) == 0
    assert arrays_of(filler.store, "tiny") == []
    assert full.value.dtype == "float64"
    assert full.seed.dtype == full.layer.dtype == "Int64"


def test_selecting_metrics_by_name_gives_the_same_rows(filler, description: Describe) -> None:
    attempt = filler.trial(description(), "f1")
    metrics = [Metric(name, value, split="test") for name, value in (("top1", 0.7), ("nll", 1.1))]
    origin = ({}, "h1", filler.machine, filler.code)
    filler.store.record_measurement("accuracy", *origin, attempt_id=attempt, metrics=metrics)
    everything = metrics_frame(filler.store, "tiny")
    some = metrics_frame(filler.store, "tiny", names={"nll", "never_seen"})
    assert everything.metric.tolist() == ["top1", "nll"]
    pd.testing.assert_frame_equal(some, everything[1:].reset_index(drop=True))


def test_an_unknown_study_is_named_with_the_nearest(filler) -> None:
    filler.store.study("tiny", {})
    for frame in (metrics_frame, trials_frame, measurements_frame, arrays_of):
        with pytest.raises(StoreError, match=r"no study 'tinny' in .*; did you mean 'tiny'\?"):
            frame(filler.store, "tinny")


def test_each_metric_has_one_row_with_all_its_facts(filler, description: Describe) -> None:
    store = filler.store
    store.components([ACCURACY])[0]
    attempt = filler.trial(description("soft_moe", seed=3), "f1")
    store.record_measurement(
        "accuracy",
        {"batch_size": 64},
        "h1",
        filler.machine,
        filler.code,
        attempt_id=attempt,
        metrics=[
            Metric("top1", 81.5, split="test"),
            Metric(
                "val_top1", math.nan, layer=2, step=100, split="val", where={"b": 1.5, "a": [2]}
            ),
        ],
    )
    first, second = metrics_frame(store, "tiny").to_dict("records")
    expected = {
        "study": "tiny",
        "suite": "accuracy",
        "router": "soft_moe",
        "condition": "",
        "settings": "{}",
        "options": '{"capacity_factor":1.0}',
        "experts": "mlp",
        "num_experts": 8,
        "model": "vit_tiny_patch16_224",
        "data": "digits",
        "seed": 3,
        "metric": "top1",
        "value": 81.5,
        "unit": "%",
        "better": "higher",
        "layer": None,
        "step": None,
        "split": "test",
        "where": "{}",
        "trial": "f1",
        "attempt": attempt,
        "suite_options": '{"batch_size":64}',
        "source_hash": "h1",
        "machine_name": "node1",
        "processor": "EPYC 7B13",
        "gpu": None,
        "threads": 1,
        "code": "0123456789ab",
        "libraries": '{"torch":"2.6.0"}',
        "current": True,
    }
    assert {name: first[name] for name in expected} == expected
    assert len(first["machine"]) == 12
    assert math.isnan(second["value"])
    assert (second["layer"], second["step"]) == (2, 100)
    assert (second["where"], second["unit"], second["better"]) == ('{"a":[2],"b":1.5}', None, None)


def test_a_bare_layer_has_no_seed_and_no_attempt(filler, description: Describe) -> None:
    store = filler.store
    bare = {name: description()[name] for name in ("router", "experts", "model", "data")}
    layer = store.layers([Subject("l1", bare)])[0]
    store.add_layer_to_study(store.study("tiny", {}), layer)
    store.record_measurement(
        "throughput",
        {},
        "h1",
        filler.machine,
        filler.code,
        layer_id=layer,
        metrics=[Metric("forward_ms", math.inf, where={"shape": "A"})],
    )
    row = metrics_frame(store, "tiny").iloc[0]
    assert (row.router, row.trial, row.value) == ("soft_moe", "l1", math.inf)
    assert row.seed is pd.NA
    assert row.attempt is pd.NA
    assert trials_frame(store, "tiny").empty


def test_the_condition_names_the_differences_besides_router_and_seed(
    filler, description: Describe
) -> None:
    for router in ("soft_moe", "random"):
        for experts in (8, 32):
            for seed in (0, 1):
                filler.trial(description(router, seed, experts__num_experts=experts))
    options = {"capacity_factor": 2.0, "top_k": 1}
    filler.trial(description("soft_moe", 0, router__options=options))
    shown = trials_frame(filler.store, "tiny")
    assert sorted(set(shown.condition)) == [
        "experts.num_experts=32 router.capacity_factor=1.0",
        "experts.num_experts=8 router.capacity_factor=1.0",
        "experts.num_experts=8 router.capacity_factor=2.0 router.top_k=1",
    ]
    assert set(shown[shown.router == "random"].condition) == {
        "experts.num_experts=8 router.capacity_factor=1.0",
        "experts.num_experts=32 router.capacity_factor=1.0",
    }


def test_settings_of_routers_are_no_condition_until_one_router_varies_them(
    filler, description: Describe
) -> None:
    filler.trial(description("soft_moe", router__options={"noise_std": 1.0}))
    filler.trial(description("random", train__losses={"importance": 0.01}))
    assert set(trials_frame(filler.store, "tiny").condition) == {""}
    filler.trial(description("random", train__losses={"importance": 0.1}))
    filler.trial(description("random", train__lr=0.01, model__layers=[1, 3]))
    shown = trials_frame(filler.store, "tiny")
    assert shown.condition.tolist() == [
        "model.layers=last2 train.losses.importance=unset train.lr=0.001",
        "model.layers=last2 train.losses.importance=0.01 train.lr=0.001",
        "model.layers=last2 train.losses.importance=0.1 train.lr=0.001",
        "model.layers=[1,3] train.losses.importance=unset train.lr=0.01",
    ]


def test_a_study_shows_its_own_trials_in_its_own_conditions(filler, description: Describe) -> None:
    for lr in (0.1, 0.2):
        filler.trial(description(train__lr=lr), f"lr{lr}", study="sweep")
    filler.store.add_trial_to_study(
        filler.store.study("tiny", {}),
        filler.store.trials([Subject("lr0.1", description(train__lr=0.1))])[0],
    )
    filler.trial(description(), "alone", study=None)
    assert trials_frame(filler.store, "tiny").condition.tolist() == [""]
    assert trials_frame(filler.store, "sweep").condition.tolist() == [
        "train.lr=0.1",
        "train.lr=0.2",
    ]
    everything = trials_frame(filler.store)
    assert sorted(zip(everything.study.fillna("-"), everything.trial, strict=True)) == [
        ("-", "alone"),
        ("sweep", "lr0.1"),
        ("sweep", "lr0.2"),
        ("tiny", "lr0.1"),
    ]


def test_a_trial_is_represented_by_its_done_attempt(filler, description: Describe) -> None:
    store = filler.store
    failed = filler.trial(description(), "f1", status="failed")
    done = filler.trial(description(), "f1")
    later = filler.trial(description(), "f1", status="failed")
    measure(filler, failed, 1.0)
    measure(filler, done, 2.0)
    diverged = filler.trial(description(seed=1), "f2", status="diverged")
    waiting = store.trials([Subject("f3", description(seed=2))])[0]
    store.add_trial_to_study(store.study("tiny", {}), waiting)
    shown = trials_frame(store, "tiny").set_index("trial")
    assert shown.status.to_dict() == {"f1": "done", "f2": "diverged", "f3": "waiting"}
    assert shown.attempt.tolist() == [done, diverged, pd.NA]
    assert (shown.flops["f1"], shown.steps["f1"], shown.seconds["f1"]) == (1e9, 10, 2.5)
    assert shown.log["f3"] is None
    assert metrics_frame(store, "tiny").value.tolist() == [2.0]
    history = trials_frame(store, "tiny", history=True)
    assert history.attempt.dropna().tolist() == [failed, later, done, diverged]
    assert history.current.tolist() == [False, False, True, True, True]
    assert metrics_frame(store, "tiny", history=True).value.tolist() == [1.0, 2.0]


def test_newer_code_replaces_a_trial_and_can_be_reverted(filler, description: Describe) -> None:
    store = filler.store
    measure(filler, filler.trial(description(), "old"), 1.0)
    measure(filler, filler.trial(description(), "new"), 2.0)
    assert metrics_frame(store, "tiny").trial.tolist() == ["new"]
    assert trials_frame(store, "tiny").trial.tolist() == ["new"]
    store.add_trial_to_study(
        store.study("tiny", {}), store.trials([Subject("old", description())])[0]
    )
    assert metrics_frame(store, "tiny").trial.tolist() == ["old"]
    both = metrics_frame(store, "tiny", history=True).set_index("trial").current
    assert both.to_dict() == {"old": True, "new": False}


def test_newer_code_of_a_suite_replaces_its_measurement(filler, description: Describe) -> None:
    attempt = filler.trial(description())
    measure(filler, attempt, 1.0, source_hash="h1")
    measure(filler, attempt, 2.0, source_hash="h2")
    measure(filler, attempt, 9.0, source_hash="h1", suite="balance")
    assert metrics_frame(filler.store, "tiny").value.tolist() == [2.0, 9.0]
    measure(filler, attempt, 3.0, source_hash="h3", options={"draws": 5})
    assert metrics_frame(filler.store, "tiny").value.tolist() == [9.0, 3.0]
    measure(filler, attempt, 4.0, source_hash="h4", status="failed")
    assert metrics_frame(filler.store, "tiny").value.tolist() == [9.0]


def test_timings_of_two_machines_both_count(filler, description: Describe) -> None:
    store = filler.store
    other = store.machine(Machine("node2", "Linux", "cpu", 2, 1, 2**30))
    (layer,) = store.layers([Subject("layer", description(seed=None))])
    store.add_layer_to_study(store.study("tiny", {}), layer)
    for value, machine in ((1.0, filler.machine), (2.0, other), (3.0, other)):
        measure(filler, None, value, machine_id=machine, layer_id=layer)
    shown = metrics_frame(store, "tiny")
    assert dict(zip(shown.machine_name, shown.value, strict=True)) == {"node1": 1.0, "node2": 3.0}
    assert shown.machine.nunique() == 2


def test_a_trial_measured_on_two_machines_has_one_result(filler, description) -> None:
    other = filler.store.machine(Machine("node2", "Linux", "cpu", 2, 1, 2**30))
    attempt = filler.trial(description())
    for value, machine in ((1.0, filler.machine), (2.0, other)):
        measure(filler, attempt, value, machine_id=machine)
    assert metrics_frame(filler.store, "tiny").value.tolist() == [2.0]


def test_options_that_differ_are_conditions(filler, description: Describe) -> None:
    attempt = filler.trial(description())
    measure(filler, attempt, 1.0, suite="fewshot", options={"shots": 1, "draws": 5})
    measure(filler, attempt, 2.0, suite="fewshot", options={"shots": 5, "draws": 5})
    measure(filler, attempt, 3.0)
    shown = metrics_frame(filler.store, "tiny")
    assert shown.condition.tolist() == ["fewshot.shots=1", "fewshot.shots=5", ""]


def test_failed_and_skipped_measurements_are_rows_without_metrics(
    filler, description: Describe
) -> None:
    attempt = filler.trial(description())
    measure(filler, attempt, 1.0, status="failed", error="boom")
    measure(filler, attempt, 1.0, suite="entropy", status="skipped", error="has no gates")
    assert metrics_frame(filler.store, "tiny").empty
    shown = measurements_frame(filler.store, "tiny")
    assert list(zip(shown.suite, shown.status, shown.error, strict=True)) == [
        ("accuracy", "failed", "boom"),
        ("entropy", "skipped", "has no gates"),
    ]
    measure(filler, attempt, 3.0)
    assert measurements_frame(filler.store, "tiny").status.tolist() == ["skipped", "done"]


def test_units_come_from_the_code_that_measured(filler, description: Describe) -> None:
    store = filler.store
    store.components([ACCURACY])[0]
    share = [{"name": "top1", "unit": "share", "better": "higher"}]
    store.components([Component("suite", "accuracy", "…", source_hash="h2", metrics=share)])[0]
    attempt = filler.trial(description())
    for source_hash in ("h1", "h2", "h3"):
        measure(filler, attempt, 1.0, source_hash=source_hash)
    history = metrics_frame(store, "tiny", history=True)
    assert history.unit.tolist() == ["%", "share", "share"]


def test_arrays_come_with_their_condition(filler, description: Describe) -> None:
    store = filler.store
    table = np.arange(6.0).reshape(2, 3)
    for seed in (0, 1):
        store.record_measurement(
            "entropy",
            {},
            "h1",
            filler.machine,
            filler.code,
            attempt_id=filler.trial(description(seed=seed)),
            arrays=[
                Array("class_expert", table + seed, layer=1, split="test", where={"of": "gates"}),
                Array("load", np.arange(3)),
            ],
        )
    first, second = (a for a in arrays_of(store, "tiny") if a.name == "class_expert")
    np.testing.assert_array_equal(second.values, table + 1)
    assert (first.study, first.suite, first.router) == ("tiny", "entropy", "soft_moe")
    assert (first.seed, second.seed, first.layer, first.split) == (0, 1, 1, "test")
    assert first.where == {"of": "gates"}
    assert len(arrays_of(store, "tiny")) == len(arrays_of(store, None)) == 4


def test_components_show_their_newest_version(filler) -> None:
    store = filler.store
    store.components([Component("router", "soft_moe", "v1", "h1", summary="old")])[0]
    store.components([Component("router", "soft_moe", "v2", "h2", summary="new", bibtex="@a{…}")])[
        0
    ]
    store.components([ACCURACY])[0]
    shown = components_frame(store).set_index("name")
    assert shown.summary.to_dict() == {"soft_moe": "new", "accuracy": ""}
    assert shown.kind.to_dict() == {"soft_moe": "router", "accuracy": "suite"}
    assert shown.metrics["accuracy"][0]["unit"] == "%"
    assert shown.main_metric["accuracy"] == "top1"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_an_export_contains_every_metric(
    filler, description: Describe, tmp_path, ending: str
) -> None:
    attempt = filler.trial(description(), "f1")
    measure(filler, attempt, 1.5, source_hash="h1")
    measure(filler, attempt, math.inf, source_hash="h2")
    measure(filler, filler.trial(description(), "f2", study="other"), math.nan)
    file = export(filler.store, tmp_path / "out" / f"metrics{ending}")
    read = pd.read_csv(file) if ending == ".csv" else pd.read_parquet(file)
    assert list(read.columns) == METRIC_COLUMNS
    np.testing.assert_array_equal(read.value, [1.5, math.inf, math.nan])
    assert read.current.tolist() == [False, True, True]
    assert read.study.tolist() == ["tiny", "tiny", "other"]
    assert read.seed.tolist() == [0, 0, 0]
    one = export(filler.store, tmp_path / f"one{ending}", study="other")
    assert len(pd.read_csv(one) if ending == ".csv" else pd.read_parquet(one)) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file.name]


def test_export_refuses_other_formats_and_unwritable_files(sqlite_store, tmp_path) -> None:
    with pytest.raises(StoreError, match=r"'metrics.xlsx': the name ends in .csv or .parquet"):
        export(sqlite_store, tmp_path / "metrics.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        export(sqlite_store, tmp_path / "file" / "metrics.csv")


def test_a_database_describes_itself(filler, description: Describe) -> None:
    store = filler.store
    filler.trial(description(), "f1", status="failed")
    measure(filler, filler.trial(description(), "f1"), 1.0)
    study = store.find_study().id
    runs = [store.start_run(study, Run(*this_process(), "run", 1)) for _ in range(3)]
    store.finish_run(runs[0])
    summary = describe(store)
    assert (summary.rows["runs"], summary.rows["claims"], summary.working) == (3, 0, 2)
    assert (summary.url, summary.schema) == (store.url, "0004")
    assert summary.size_bytes > 50_000
    assert summary.attempts == {"failed": 1, "done": 1}
    assert summary.rows["trials"] == 1
    assert summary.rows["metrics"] == summary.rows["measurements"] == 1
    assert summary.rows["arrays"] == 0
    assert [study.name for study in summary.studies] == ["tiny"]
    last = store.last_attempt("f1")
    assert last is not None
    assert last.finished_at is not None
    assert summary.last_write is not None
    assert summary.last_write >= last.finished_at
