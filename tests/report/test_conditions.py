"""Routers of one study that were trained at different values, and who stands beside whom."""

from __future__ import annotations

from typing import Any

import pytest

from report.claims.claims import Claim
from report.claims.verdicts import Judged, judged
from report.comparisons import comparisons
from report.conditions import ANY, Entry
from report.load import load_study
from report.numbers import trace
from report.timings import of_entry, representative, timings
from report.topics import accuracy
from results.conditions import Condition

ONE, TWO = ({"capacity_factor": factor} for factor in (1.0, 2.0))
AT_ONE, AT_TWO = (Condition((("router.capacity_factor", at),)) for at in ("1.0", "2.0"))
BY_SEED = [0.80, 0.82, 0.81]


@pytest.fixture
def study(lab, store):
    """Two runs into one study: at 1, and with one router more and one fewer at 2."""
    made = lab(suites=("accuracy", "throughput"))
    made.study_of({"dense": [0.7, 0.71, 0.72]})
    made.study_of({"softmax_token_choice": BY_SEED}, (ONE, TWO))
    made.study_of({"soft_moe": [0.85, 0.84, 0.86]}, (ONE,))
    made.study_of({"softmax_expert_choice": [0.9, 0.91, 0.89]}, (TWO,))
    return load_study(store)


def test_each_router_stands_under_the_value_that_it_was_trained_at_alone(study):
    assert study.conditions == [AT_ONE, AT_TWO]
    under = {told: {e.router for e in study.under(told)} for told in study.conditions}
    assert under == {
        AT_ONE: {"dense", "softmax_token_choice", "soft_moe"},
        AT_TWO: {"dense", "softmax_token_choice", "softmax_expert_choice"},
    }
    rows = {(row.entry.router, row.entry.condition) for row in accuracy.table(study).rows}
    assert ("softmax_expert_choice", AT_TWO) in rows
    assert {condition for router, condition in rows if router == "dense"} == {ANY}


def test_only_runs_of_equal_value_are_compared(study):
    found = {(c.condition, c.entry.router, c.reference.router) for c in comparisons(study)}
    ours, expert, soft = "softmax_token_choice", "softmax_expert_choice", "soft_moe"
    assert found == {
        *((AT_ONE, router, "dense") for router in (ours, soft)),
        *((AT_TWO, router, "dense") for router in (ours, expert)),
        (AT_ONE, ours, soft),
        (AT_TWO, ours, expert),
    }
    assert {c.family for c in comparisons(study)} == {3}


def test_a_trace_names_the_condition_of_a_router_that_has_one_alone(study, store):
    found = trace(store, study, "main", "softmax_expert_choice", "top1")
    assert {source.condition for source in found.sources} == {AT_TWO.label}


def test_a_layer_that_was_timed_at_one_value_is_no_timing_of_another(lab, store):
    lab(suites=("accuracy", "throughput")).study_of({"soft_moe": BY_SEED}, (ONE,))
    lab(suites=("accuracy",)).study_of({"soft_moe": BY_SEED}, (TWO,))
    study = load_study(store)
    found = timings(study)
    setting = representative(found)
    timed = of_entry(found, setting, Entry("soft_moe", AT_ONE))
    assert timed is not None
    assert timed.entry.condition == AT_ONE
    assert of_entry(found, setting, Entry("soft_moe", AT_TWO)) is None


def test_a_side_of_a_claim_without_a_setting_is_the_runs_where_it_is_unset(lab, store):
    """What the sides do not set apart is equal on both, and told or not as a router has it."""
    made, path = lab(suites=("accuracy",)), "router.affinity_options.hidden"
    for options, gain in (({}, 0.0), ({"hidden": 4}, 0.01)):
        for factor, better in ((1.0, 0.0), (2.0, 0.1)):
            settings: dict[str, Any] = {"affinity_options": options, "capacity_factor": factor}
            values = {"soft_moe": [top1 + gain + better for top1 in (0.5, 0.51, 0.52)]}
            made.study_of(values, (settings,))
    claim = Claim(
        id="mine",
        claim="Hidden units help.",
        source="me",
        metric="top1",
        test="higher",
        left={"routers": ["soft_moe"], "settings": {path: 4}},
        right={"routers": ["soft_moe"], "settings": {path: None}},
        supported_if="it is",
        contradicted_if="it is not",
    )
    (*_, found) = judged(load_study(store, claims=(claim,)))
    assert isinstance(found, Judged)
    assert found.evidence.by_condition == pytest.approx({AT_ONE: 0.01, AT_TWO: 0.01})
