"""The headline of a report never contradicts its table: baselines and nulls may lead."""

from __future__ import annotations

import pytest

from report.conditions import ANY
from report.study import load_study
from report.summary import findings
from report.table import TIED
from report.topics import accuracy


def bold(study, condition=ANY):
    """Return the systems whose test accuracy is bold in the main table."""
    return {label for label, cell in accuracies_of(study, condition).items() if cell.best}


def tied(study, condition=ANY):
    """Return the systems that share the best mean or are not resolved from it."""
    return {label for label, c in accuracies_of(study, condition).items() if TIED in c.marks}


def accuracies_of(study, condition):
    table = accuracy.table(study)
    place = [column.key for column in table.columns].index("top1")
    return {r.entry.label: r.cells[place] for r in table.rows if condition in r.under}


@pytest.mark.parametrize("baseline", ["dense", "random", "dense_params"])
def test_a_baseline_that_beats_every_router_is_the_headline(lab, store, baseline):
    accuracies = {"soft_moe": [0.8, 0.82], "my_gate": [0.7, 0.72], baseline: [0.9, 0.93]}
    lab(suites=("accuracy",)).study_of(accuracies)
    study = load_study(store)
    (finding,) = findings(study)
    assert {finding.system.label} == bold(study) == {baseline}
    assert finding.accuracy.startswith("91.5 ± ")
    text = " ".join(finding.sentences)
    assert text.startswith("It is a baseline; the best router, soft_moe, has 81.0")
    assert f"Lead over the next, soft_moe: {91.5 - 81:.2f} points" in text
    assert "Lead of soft_moe" not in text, "it trails the only null"
    assert len(finding.trials) == 2


def test_the_best_router_still_reports_its_lead_over_the_other_nulls(lab, store):
    accuracies = {"soft_moe": [0.8, 0.82], "dense": [0.9, 0.91], "random": [0.5, 0.53]}
    lab(suites=("accuracy",)).study_of(accuracies)
    (finding,) = findings(load_study(store))
    assert finding.system.label == "dense"
    assert any(
        sentence.startswith("Lead of soft_moe over random: 29.50") for sentence in finding.sentences
    )


def test_a_baseline_beaten_by_a_router_is_not_the_headline(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.82], "dense": [0.8, 0.81]})
    study = load_study(store)
    (finding,) = findings(study)
    assert finding.system.label == "soft_moe"
    assert tied(study) == {"soft_moe", "dense"}
    assert any(sentence.startswith("Lead over dense: ") for sentence in finding.sentences)


def test_each_condition_has_its_own_headline(lab, store):
    made = lab(suites=("accuracy",))
    conditions = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    made.study_of({"soft_moe": [0.8, 0.8, 0.8], "my_gate": [0.7, 0.71, 0.7]}, conditions)
    made.study_of({"dense": [0.805, 0.806, 0.805]})
    study = load_study(store)
    headlines = {finding.condition: finding.system.label for finding in findings(study)}
    assert list(headlines.values()) == ["dense", "soft_moe"]
    for condition, system in headlines.items():
        assert system in bold(study, condition) | tied(study, condition)


@pytest.mark.parametrize("lucky", ["dense", "my_gate"])
def test_a_higher_mean_of_fewer_seeds_is_mentioned(lab, store, lucky):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.82], lucky: [0.95, None]})
    study = load_study(store)
    (finding,) = findings(study)
    assert finding.system.label == "soft_moe"
    assert bold(study) == tied(study) == set(), "one seed has no test"
    expected = f"{lucky} has a higher mean, 95.0 % (n = 1), but it is not compared"
    assert any(sentence.startswith(expected) for sentence in finding.sentences)
