"""The data of the page's interactive part, and the preset that retrains a study."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace

import pytest
import yaml

from report.board import board
from report.study import load_study
from report.topics import make_tables
from report.topics.trials import Logs
from results import Subject
from tests.report.conftest import description, router_card

VALUES = {"dense": [0.80, 0.82], "soft_moe": [0.86, 0.88], "my_gate": [0.5, None]}


@pytest.fixture
def data(lab, store, tmp_path):
    lab(suites=("accuracy", "balance")).study_of(VALUES)
    study = load_study(store, "tiny")
    return board(study, make_tables(study), Logs(None, tmp_path))


def row(data, router):
    return next(each for each in data["rows"] if each["router"] == router)


def test_a_run_has_its_accuracy_its_interval_and_its_costs(data):
    soft = next(each for each in data["runs"] if each["router"] == "soft_moe")
    half = 12.7062 * math.sqrt(2) / math.sqrt(2)  # Student t with 1 degree of freedom; std √2
    assert soft["top1"] == pytest.approx(87)
    assert soft["high"] - soft["top1"] == pytest.approx(half, rel=1e-4)
    assert (soft["n"], soft["flops"], soft["seconds"]) == (2, 4e12, 60)
    assert (soft["parameters"], soft["ms"]) == (1_234_567, None)


def test_a_curve_is_the_mean_over_seeds_in_percent(data):
    points = [each for each in data["curves"] if each["router"] == "soft_moe"]
    assert len(points) == 11
    assert (points[0]["mean"], points[-1]["flops"]) == (10, 4e12)
    last = [10 + (top1 - 10) * (1 - 2 ** (-10 / 1.5)) for top1 in (86, 88)]
    assert points[-1]["mean"] == pytest.approx(sum(last) / 2, abs=1e-3)
    assert (points[-1]["low"], points[-1]["high"]) == pytest.approx(last, abs=1e-3)


def test_loads_are_sorted_and_divided_by_their_mean(data):
    own = [each for each in data["loads"] if each["router"] == "soft_moe"]
    assert {(each["layer"], each["share"]) for each in own} == {(0, 100), (1, 100)}
    for each in own:
        assert each["loads"] == sorted(each["loads"], reverse=True)
        assert sum(each["loads"]) / 8 == pytest.approx(1, abs=1e-2)


def test_a_cell_knows_its_trials_and_their_values(data):
    cell = row(data, "soft_moe")["cells"]["top1"]
    trials = [data["trials"][number] for number in cell["trials"]]
    assert [(each["router"], each["seed"]) for each in trials] == [("soft_moe", 0), ("soft_moe", 1)]
    assert cell["values"] == ["86.0", "88.0"]
    assert [len(each["curve"]) for each in trials] == [11, 11]
    assert row(data, "dense")["experts"] == ""
    assert row(data, "soft_moe")["experts"] == "8 mlp"


def test_a_failed_trial_has_its_reason_and_no_number(data):
    failed = next(each for each in data["trials"] if each["status"] == "diverged")
    assert (failed["router"], failed["seed"]) == ("my_gate", 1)
    assert failed["reason"] == "loss is not finite at step 17"
    assert row(data, "my_gate")["cells"]["top1"]["values"] == ["50.0"]


def test_column_keys_are_unique_and_the_data_are_valid_json(data):
    keys = [column["key"] for column in data["columns"]]
    assert len(keys) == len(set(keys))
    assert {"top1", "load_cv", "train_flops"} <= set(keys)
    assert {key for each in data["rows"] for key in each["cells"]} <= set(keys)
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_each_column_belongs_to_the_group_of_its_quantity(written, tmp_path):
    made = board(written.study, list(written.tables.values()), Logs(None, tmp_path))
    groups = defaultdict(set)
    for column in made["columns"]:
        groups[column["group"]].add(column["key"])
    assert groups.keys() == {"Accuracy", "Cost", "Balance", "Entropy"}
    assert groups["Accuracy"] == {"top1", "top5", "nll", "ece", "over_dense", "over_random"}
    assert {"train_flops", "params_total", "forward_overhead", "steps"} <= groups["Cost"]
    assert {"load_cv", "dropped", "uncovered"} <= groups["Balance"]
    assert groups["Entropy"] == {"H_s", "H_u", "MI"}
    suites = {column["key"]: column["suite"] for column in made["columns"]}
    assert (suites["MI"], suites["top1"], suites["over_random"]) == ("entropy", "accuracy", "")


def test_each_trial_has_the_source_of_its_router_at_the_time(lab, store, tmp_path):
    made = lab(suites=("accuracy",))
    made.study_of({"dense": [0.8], "soft_moe": [0.8]})
    card = replace(router_card("soft_moe"), source_text="class soft_moe: ...  # renamed")
    trial = store.trials(
        [Subject("later", description("soft_moe", {}) | {"seed": 1}, store.components([card]))]
    )
    store.add_trial_to_study(made.study, *trial)
    data = board(load_study(store, "tiny"), (), Logs(None, tmp_path))
    shown = {(each["router"], each["seed"]): each["source"] for each in data["trials"]}
    assert {key: data["sources"][number] for key, number in shown.items()} == {
        ("dense", 0): "class dense: ...",
        ("soft_moe", 0): "class soft_moe: ...",
        ("soft_moe", 1): "class soft_moe: ...  # renamed",
    }


def test_the_preset_in_a_report_is_that_of_the_study(written):
    text = (written.paths.folder / "preset.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == written.study.record.request["preset"]
