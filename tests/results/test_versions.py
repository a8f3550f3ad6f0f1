"""Which rows come from older code than others beside them: cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from results import Component, Subject
from results.frames import measurements_frame, metrics_frame, trials_frame
from results.store.records import Metric
from results.store.selection import replaced


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], []),
        ([{"a": "1"}], [False]),
        ([{"a": "1"}, {"a": "1"}, {"b": "1"}], [False, False, False]),
        ([{"a": "1"}, {"a": "2"}], [True, False]),
        ([{"a": "1", "b": "1"}, {"b": "1"}, {"a": "2"}], [True, False, False]),
        # Reverted: what was newer for a while becomes the older one.
        ([{"a": "1"}, {"a": "2"}, {"a": "1"}], [False, True, False]),
        ([{"a": "1"}, {"a": "2", "b": "1"}, {"b": "2"}], [True, True, False]),
    ],
)
def test_a_row_is_older_if_it_has_another_version_than_the_last(asked, expected) -> None:
    older = replaced([{(name,): code for name, code in each.items()} for each in asked])
    assert [bool(parts) for parts in older] == expected


@pytest.fixture
def asked_for(filler, description) -> Callable[..., int]:
    """Add a trial of these parts to study `tiny`: `asked_for("soft_moe", "router soft_moe 1")`."""

    def ask(router: str, *parts: str, study: str = "tiny", **changes: Any) -> int:
        store = filler.store
        made_of = [
            Component(kind, name, "", source_hash=code)
            for kind, name, code in (part.split() for part in parts)
        ]
        parent = changes.pop("parent", None)
        fields = description(router, **changes)
        fingerprint = f"{router} {' '.join(parts)} {changes}"
        trial = store.trials([Subject(fingerprint, fields, store.components(made_of), parent)])[0]
        store.add_trial_to_study(store.study(study, {}), trial)
        attempt = store.begin_attempt(trial, filler.machine, filler.code)
        store.finish_attempt(attempt, "done")
        return attempt

    return ask


def shown(filler, study: str | None = "tiny", history: bool = False) -> list[tuple[str, bool]]:
    frame = trials_frame(filler.store, study, history=history)
    return list(zip(frame.router, frame.older, strict=True))


def test_a_router_that_was_not_rerun_is_older(filler, asked_for) -> None:
    asked_for("soft_moe", "router soft_moe 1", "protocol training 1")
    asked_for("random", "router random 1", "protocol training 1")
    assert shown(filler) == [("soft_moe", False), ("random", False)]
    asked_for("random", "router random 1", "protocol training 2")
    assert shown(filler) == [("soft_moe", True), ("random", False)]
    assert shown(filler, history=True) == [("soft_moe", True), ("random", True), ("random", False)]
    # The code is reverted, and everything was requested again.
    asked_for("soft_moe", "router soft_moe 1", "protocol training 1")
    assert shown(filler) == [("random", True), ("soft_moe", False)]


def test_the_code_of_another_router_makes_nothing_older(filler, asked_for) -> None:
    asked_for("soft_moe", "router soft_moe 1", "protocol training 1")
    asked_for("random", "router random 1", "protocol training 1")
    asked_for("random", "router random 2", "protocol training 1")
    assert shown(filler) == [("soft_moe", False), ("random", False)]


def test_studies_do_not_affect_each_other(filler, asked_for) -> None:
    asked_for("soft_moe", "protocol training 1")
    asked_for("random", "protocol training 2", study="other")
    assert shown(filler) == [("soft_moe", False)]
    assert shown(filler, None) == [("soft_moe", False), ("random", False)]


def test_trials_without_a_study_are_never_older(filler, description) -> None:
    for code in "12":
        part = filler.store.components([Component("protocol", "training", "", source_hash=code)])[0]
        filler.store.trials([Subject(code, description(seed=int(code)), [part])])[0]
    assert [is_older for _, is_older in shown(filler, None)] == [False, False]


def test_seeds_added_by_newer_code_make_the_first_ones_older(filler, asked_for) -> None:
    asked_for("soft_moe", "router soft_moe 1", seed=0)
    asked_for("soft_moe", "router soft_moe 2", seed=1)
    assert shown(filler) == [("soft_moe", True), ("soft_moe", False)]


def test_data_is_older_only_for_equal_data_settings(filler, asked_for) -> None:
    asked_for("soft_moe", "data digits 1")
    asked_for("soft_moe", "data digits 2", data__image_size=16)
    assert shown(filler) == [("soft_moe", False), ("soft_moe", False)]
    asked_for("random", "data digits 3")
    assert shown(filler) == [("soft_moe", True), ("soft_moe", False), ("random", False)]


def test_a_trial_derived_from_an_older_one_is_older(filler, asked_for) -> None:
    old = "soft_moe router soft_moe 1 {}"
    asked_for("soft_moe", "router soft_moe 1")
    asked_for("random", "router random 1", f"parent soft_moe {'p' * 8}", parent=old)
    asked_for("hash", "router hash 1")
    assert shown(filler) == [("soft_moe", False), ("random", False), ("hash", False)]
    asked_for("soft_moe", "router soft_moe 2", seed=1)
    expected = [("soft_moe", True), ("random", True), ("hash", False), ("soft_moe", False)]
    assert shown(filler) == expected


def layer(filler, description, code: str) -> int:
    store = filler.store
    bare = {name: description()[name] for name in ("router", "experts", "model", "data")}
    part = store.components([Component("router", "soft_moe", "", source_hash=code)])[0]
    row = store.layers([Subject(f"l{code}", bare, [part])])[0]
    store.add_layer_to_study(store.study("tiny", {}), row)
    return row


def test_layers_and_trials_make_each_other_older(filler, asked_for, description) -> None:
    attempt = asked_for("soft_moe", "router soft_moe 1")
    row = layer(filler, description, "2")
    measure(filler, [("throughput", "h")], layer_id=row)
    measure(filler, [("accuracy", "h")], attempt_id=attempt)
    assert shown(filler) == [("soft_moe", True)]
    frame = metrics_frame(filler.store, "tiny").set_index("suite")
    assert frame.older.to_dict() == {"throughput": False, "accuracy": True}


def measure(filler, suites: Sequence[tuple[str, str]], **subject: int) -> None:
    for suite, code in suites:
        filler.store.record_measurement(
            suite, {}, code, filler.machine, filler.code, metrics=[Metric("x", 1.0)], **subject
        )


def test_a_measurement_by_an_older_version_of_its_suite_is_older(filler, asked_for) -> None:
    first, second = asked_for("soft_moe"), asked_for("random")
    measure(filler, [("accuracy", "1"), ("balance", "1")], attempt_id=first)
    measure(filler, [("accuracy", "2"), ("balance", "1")], attempt_id=second)
    for frame in (metrics_frame, measurements_frame):
        measurements = frame(filler.store, "tiny")
        assert list(
            zip(measurements.router, measurements.suite, measurements.older, strict=True)
        ) == [
            ("soft_moe", "accuracy", True),
            ("soft_moe", "balance", False),
            ("random", "accuracy", False),
            ("random", "balance", False),
        ]
    assert shown(filler) == [("soft_moe", False), ("random", False)]
