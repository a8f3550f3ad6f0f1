"""Conditions, and systems of router and experts: what is shown separately and compared."""

from __future__ import annotations

from typing import Any

import pytest

from report.claims import Claim
from report.comparisons import comparisons
from report.conditions import ANY, Entry, System, Systems, closest, closest_layer, fullest
from report.numbers import trace
from report.study import load_study
from report.timings import of_entry, representative, timings
from report.topics import accuracy, differences
from report.verdicts import Judged, judged
from results.conditions import Condition

ONE, TWO = ({"capacity_factor": factor} for factor in (1.0, 2.0))
AT_ONE, AT_TWO = (Condition((("router.capacity_factor", at),)) for at in ("1.0", "2.0"))
BY_SEED = [0.80, 0.82, 0.81]


@pytest.fixture
def study(lab, store):
    """Two runs of one study: at 1, and at 2 with one router added and one left out."""
    made = lab(suites=("accuracy", "throughput"))
    made.study_of({"dense": [0.7, 0.71, 0.72]})
    made.study_of({"softmax_token_choice": BY_SEED}, (ONE, TWO))
    made.study_of({"soft_moe": [0.85, 0.84, 0.86]}, (ONE,))
    made.study_of({"softmax_expert_choice": [0.9, 0.91, 0.89]}, (TWO,))
    return load_study(store)


def test_each_router_is_listed_only_under_the_value_that_it_was_trained_with(study):
    assert study.conditions == [AT_ONE, AT_TWO]
    under = {shown: {e.label for e in study.under(shown)} for shown in study.conditions}
    assert under == {
        AT_ONE: {"dense", "softmax_token_choice", "soft_moe"},
        AT_TWO: {"dense", "softmax_token_choice", "softmax_expert_choice"},
    }
    rows = {(row.entry.label, row.entry.condition) for row in accuracy.table(study).rows}
    assert ("softmax_expert_choice", AT_TWO) in rows
    assert {condition for router, condition in rows if router == "dense"} == {ANY}


def test_only_runs_with_the_same_value_are_compared(study):
    compared = {(c.condition, c.entry.label, c.reference.label) for c in comparisons(study)}
    ours, expert, soft = "softmax_token_choice", "softmax_expert_choice", "soft_moe"
    assert compared == {
        *((AT_ONE, router, "dense") for router in (ours, soft)),
        *((AT_TWO, router, "dense") for router in (ours, expert)),
        (AT_ONE, ours, soft),
        (AT_TWO, ours, expert),
    }
    assert {c.family for c in comparisons(study)} == {3}


def test_a_trace_names_the_only_condition_of_a_router(study, store):
    traced = trace(store, study, "main", "softmax_expert_choice", "top1")
    assert {source.condition for source in traced.sources} == {AT_TWO.label}


def test_a_layer_timed_at_one_value_is_not_used_for_another(lab, store):
    lab(suites=("accuracy", "throughput")).study_of({"soft_moe": BY_SEED}, (ONE,))
    lab(suites=("accuracy",)).study_of({"soft_moe": BY_SEED}, (TWO,))
    study = load_study(store)
    measured = timings(study)
    setting = representative(measured)
    timed = of_entry(measured, setting, Entry(System("soft_moe"), AT_ONE))
    assert timed is not None
    assert timed.entry.condition == AT_ONE
    assert of_entry(measured, setting, Entry(System("soft_moe"), AT_TWO)) is None


def test_a_side_of_a_claim_can_select_runs_in_which_a_setting_is_unset(lab, store):
    """Settings in which the sides do not differ are equal, and shown if a router has them."""
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
    (*_, verdict) = judged(load_study(store, claims=(claim,)))
    assert isinstance(verdict, Judged)
    assert verdict.evidence.by_condition == pytest.approx({AT_ONE: 0.01, AT_TWO: 0.01})


def at(settings: str) -> Condition:
    """Parse a condition from `path=value path=value`."""
    return Condition.of(dict(setting.split("=", 1) for setting in settings.split()))


def test_a_condition_contained_in_fuller_ones_is_not_shown_separately():
    dense, swept = (
        Entry(System("dense")),
        [Entry(System("soft_moe"), at(f"router.slots={n}")) for n in (1, 2)],
    )
    assert fullest([dense, *swept]) == [at("router.slots=1"), at("router.slots=2")]


def test_a_condition_is_shown_if_one_of_its_entries_fits_nowhere_else():
    """An omitted loss is not a setting of the condition, and neither is a parent."""
    plain, weighed = Entry(System("soft_moe")), Entry(System("soft_moe"), at("train.losses.z=0.1"))
    derived = Entry(System("soft_moe"), at("transform=distill parent=attentive"))
    assert fullest([plain, weighed, derived]) == [ANY, weighed.condition, derived.condition]
    assert fullest([Entry(System("dense")), weighed]) == [weighed.condition]
    assert fullest([plain, derived, Entry(System("dense"))]) == [ANY, derived.condition]


def test_a_derived_trial_is_shown_beside_those_trained_like_its_parent() -> None:
    plain, weighed = (
        Entry(System("attentive")),
        Entry(System("attentive"), at("train.losses.importance=0.2")),
    )
    child = at("transform=distill parent=attentive parent.train.losses.importance=0.2")
    assert closest([plain, weighed], System("attentive"), child) == weighed
    assert (
        closest([plain, weighed], System("attentive"), at("transform=distill parent=attentive"))
        == plain
    )


def test_the_parents_training_settings_decide_rather_than_the_childs_own() -> None:
    plain, weighed = (
        Entry(System("soft_moe"), at(f"train.losses.z={z}")) for z in ("unset", "0.2")
    )
    child = at("train.losses.z=unset transform=distill parent=attentive parent.train.losses.z=0.2")
    assert closest([plain, weighed], System("soft_moe"), child) == weighed
    sibling = Entry(System("soft_moe"), child)
    assert closest([plain, weighed, sibling], System("soft_moe"), child) == sibling


def test_a_derived_trial_has_its_own_layer_and_not_its_parents() -> None:
    layers = [Entry(System("soft_moe"), at(f"router.top_k={k}")) for k in (1, 2)]
    child = at(
        "router.top_k=1 train.lr=0.1 transform=distill parent=soft_moe parent.router.top_k=2"
    )
    assert closest_layer(layers, Entry(System("soft_moe"), child)) == layers[0]
    assert closest_layer(layers, Entry(System("soft_moe"), at("router.top_k=4"))) is None


def test_a_router_is_not_shown_at_values_that_it_was_not_trained_with() -> None:
    one, two = (Entry(System("soft_moe"), at(f"router.capacity_factor={c}")) for c in (1.0, 2.0))
    late, dense = Entry(System("late"), two.condition), Entry(System("dense"))
    assert fullest([one, two, late, dense]) == [one.condition, two.condition]
    assert closest([late], System("late"), one.condition) is None
    assert [late.compares_with(other) for other in (one, two, dense)] == [False, True, True]


MLP, CP = "experts.name=mlp experts.num_experts=8", "experts.name=cp experts.num_experts=8"
MANY = "experts.name=cp experts.num_experts=64"


def named(*rows):
    entries = [Entry(System(router), at(settings)) for router, settings in rows]
    systems = Systems.of(entries)
    return [(entry.label, entry.condition.label) for entry in map(systems.named, entries)]


def test_a_number_of_experts_that_only_one_system_has_is_part_of_its_name():
    entries = [("dense", MLP), ("soft_moe", MLP), ("random", MLP), ("mumoe", CP), ("mumoe", MANY)]
    assert named(*entries) == [
        ("dense", ""),
        ("soft_moe", ""),
        ("random", ""),
        ("mumoe + 8 cp", ""),
        ("mumoe + 64 cp", ""),
    ]


def test_a_number_of_experts_that_several_systems_have_stays_a_condition():
    numbers = [f"experts.num_experts={n}" for n in (8, 32)]
    kinds = [("soft_moe", "mlp"), ("random", "mlp"), ("mumoe", "cp")]
    entries = [(r, f"experts.name={kind} {number}") for number in numbers for r, kind in kinds]
    names = ["soft_moe", "random", "mumoe + cp"]
    assert named(*entries) == [(name, number) for number in numbers for name in names]


def test_other_settings_stay_in_the_condition():
    entries = [("soft_moe", "experts.name=mlp train.lr=1"), ("mumoe", "experts.name=cp train.lr=2")]
    assert named(*entries) == [("soft_moe", "train.lr=1"), ("mumoe + cp", "train.lr=2")]


@pytest.mark.parametrize("condition", ["", "train.lr=1", "experts.num_experts=8"])
def test_the_kind_of_experts_is_not_named_if_there_is_only_one(condition):
    assert named(("soft_moe", condition), ("dense", "")) == [("soft_moe", condition), ("dense", "")]


def test_a_system_is_shown_as_its_router_with_its_experts():
    assert System("mumoe", "cp", "64").label == "mumoe + 64 cp"
    assert System("mumoe", "cp").label == "mumoe + cp"
    assert System("soft_moe").label == "soft_moe"


def test_systems_are_shown_side_by_side_in_a_report(lab, store):
    made = lab(suites=("accuracy", "entropy"))
    made.study_of({"dense": [0.7, 0.71, 0.72], "soft_moe": [0.8, 0.81, 0.83]})
    made.experts = {"name": "cp", "num_experts": 32}
    made.study_of({"my_gate": [0.75, 0.76, 0.78]})
    study = load_study(store)
    assert study.entries == [
        Entry(System("dense")),
        Entry(System("my_gate", "cp", "32")),
        Entry(System("soft_moe")),
    ]
    assert study.systems == [entry.system for entry in study.entries]
    assert study.conditions == [ANY]
    assert study.usual_experts == "8 mlp"
    rows = {row.entry.label: row for row in differences.to_nulls(study).rows}
    assert rows.keys() == {"soft_moe", "my_gate + 32 cp"}
    assert "with their experts, except the usual ones (8 mlp)" in accuracy.table(study).caption
    assert len(study.array("class_expert", Entry(System("my_gate", "cp", "32")), of="gates")) == 6
