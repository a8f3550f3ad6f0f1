"""Where a study has several kinds of experts, a row is a router with its own."""

import pytest

from report.conditions import ANY, Entry
from report.load import load_study
from report.systems import Systems, router_of
from report.topics import accuracy, differences
from results.conditions import Condition

MLP, CP = "experts.name=mlp experts.num_experts=8", "experts.name=cp experts.num_experts=8"
MANY = "experts.name=cp experts.num_experts=64"


def told(*rows):
    entries = [
        Entry(router, Condition.of(dict(each.split("=", 1) for each in settings.split())))
        for router, settings in rows
    ]
    found = map(Systems.of(entries).told, entries)
    return [(entry.router, entry.condition.label) for entry in found]


def test_a_number_that_one_system_has_is_part_of_its_name():
    entries = [("dense", MLP), ("soft_moe", MLP), ("random", MLP), ("mumoe", CP), ("mumoe", MANY)]
    assert told(*entries) == [
        ("dense", ""),
        ("soft_moe", ""),
        ("random", ""),
        ("mumoe + 8 cp", ""),
        ("mumoe + 64 cp", ""),
    ]


def test_a_number_that_several_systems_have_stays_a_condition():
    numbers = [f"experts.num_experts={n}" for n in (8, 32)]
    kinds = [("soft_moe", "mlp"), ("random", "mlp"), ("mumoe", "cp")]
    entries = [(r, f"experts.name={kind} {number}") for number in numbers for r, kind in kinds]
    names = ["soft_moe", "random", "mumoe + cp"]
    assert told(*entries) == [(name, number) for number in numbers for name in names]


def test_other_settings_stay_in_the_condition():
    entries = [("soft_moe", "experts.name=mlp train.lr=1"), ("mumoe", "experts.name=cp train.lr=2")]
    assert told(*entries) == [("soft_moe", "train.lr=1"), ("mumoe + cp", "train.lr=2")]


@pytest.mark.parametrize("condition", ["", "train.lr=1", "experts.num_experts=8"])
def test_one_kind_of_experts_goes_without_saying(condition):
    assert told(("soft_moe", condition), ("dense", "")) == [("soft_moe", condition), ("dense", "")]


def test_the_router_of_a_system_is_known():
    assert router_of("mumoe + 64 cp") == "mumoe"
    assert router_of("soft_moe") == "soft_moe"


def test_systems_stand_beside_each_other_in_a_report(lab, store):
    made = lab(suites=("accuracy", "entropy"))
    made.study_of({"dense": [0.7, 0.71, 0.72], "soft_moe": [0.8, 0.81, 0.83]})
    made.experts = {"name": "cp", "num_experts": 32}
    made.study_of({"my_gate": [0.75, 0.76, 0.78]})
    study = load_study(store)
    assert study.entries == [Entry(n) for n in ("dense", "my_gate + 32 cp", "soft_moe")]
    assert study.families["my_gate + 32 cp"] == "token_choice"
    assert study.conditions == [ANY]
    assert study.usual_experts == "8 mlp"
    rows = {row.router: row for row in differences.to_nulls(study).rows}
    assert rows.keys() == {"soft_moe", "my_gate + 32 cp"}
    assert "with their experts, but for the usual ones (8 mlp)" in accuracy.table(study).caption
    assert len(study.array("class_expert", Entry("my_gate + 32 cp"), of="gates")) == 6
