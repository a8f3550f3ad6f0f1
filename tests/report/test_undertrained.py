"""Baselines with few steps: the report claims no lead over them."""

from __future__ import annotations

import pytest

from report.study import load_study
from report.summary import findings, remarks
from report.topics import accuracy, differences

TOP1: dict[str, list[float | None]] = {
    "soft_moe": [0.80, 0.82, 0.81, 0.84, 0.83],
    "softmax_token_choice": [0.78, 0.80, 0.79, 0.81, 0.80],
    "dense_params": [0.60, 0.61, 0.62, 0.61, 0.60],
    "dense": [0.70, 0.71, 0.73, 0.74, 0.72],
}


@pytest.fixture
def study(lab, store):
    def make(**steps):
        lab(suites=("accuracy",), steps_of=steps).study_of(TOP1)
        return load_study(store)

    return make


def verdicts(table, reference):
    return {row.cells[-1].words for row in table.rows if row.reference.label == reference}


def test_no_lead_is_claimed_over_a_baseline_with_few_steps(study):
    data = study(dense_params=80, soft_moe=400, softmax_token_choice=320)
    (finding,) = findings(data)
    text = " ".join(finding.sentences)
    assert "Lead over dense:" in text
    assert "dense_params" not in text
    (remark,) = [each for each in remarks(data) if each.startswith("dense_params")]
    assert "took 20 to 25 % of the steps of the routers that it is compared with" in remark
    table = differences.to_nulls(data)
    assert verdicts(table, "dense_params") == {"higher (undertrained reference)"}
    assert verdicts(table, "dense") == {"higher"}
    assert "less than 50 % of the router's steps" in table.caption
    assert remark in accuracy.table(data).caption


def test_a_baseline_with_half_the_steps_still_counts(study):
    data = study(dense_params=200)
    (finding,) = findings(data)
    assert "Lead over dense_params:" in " ".join(finding.sentences)
    assert not [each for each in remarks(data) if "dense_params" in each]
    table = differences.to_nulls(data)
    assert verdicts(table, "dense_params") == {"higher"}
    assert "ndertrained" not in table.caption


def test_a_router_with_few_steps_is_not_called_undertrained(study):
    """It costs more per step, which is the point of a comparison at equal compute."""
    data = study(softmax_token_choice=80)
    assert "ndertrained" not in differences.to_best(data).caption
    assert not [each for each in remarks(data) if "softmax_token_choice took" in each]
