"""Ranks over conditions in a report, and what it says if there are too few."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from report.study import load_study
from report.style import PAGE, Drawing
from report.summary import findings
from report.table import Table
from report.topics import differences, make_tables, ranks
from report.topics.ranks import standings
from results.conditions import Condition

MEANS = {"random": 0.70, "softmax_token_choice": 0.80, "soft_moe": 0.84, "my_gate": 0.78}
TOO_FEW = (
    "Friedman's test over conditions needs at least 5 of them and 3 routers with results under "
    "each; here are {} and {}"
)


def study_of(lab, store, conditions, **more):
    top1 = {name: [mean, mean + 0.01] for name, mean in MEANS.items()} | more
    capacities = [{"capacity_factor": float(c)} for c in range(1, conditions + 1)]
    lab(suites=("accuracy",)).study_of(top1, capacities)
    return load_study(store)


def test_ranks_are_computed_from_the_means(lab, store):
    study = study_of(lab, store, 6, dense=[0.9, 0.9])
    values = standings(study)
    assert list(values.loc[Condition.of({"router.capacity_factor": "3.0"})]) == pytest.approx(
        [MEANS[system.router] + 0.005 + 0.02 for system in values]
    )
    table = ranks.table(study)
    shown = {row.entry.label: (row.cells[1].value, row.cells[2].words) for row in table.rows}
    # Ranks never vary: Nemenyi's critical difference for four under six conditions is 1.91.
    assert shown == {
        "soft_moe": (1.0, "my_gate, random"),
        "softmax_token_choice": (2.0, "random"),
        "my_gate": (3.0, "soft_moe"),
        "random": (4.0, "soft_moe, softmax_token_choice"),
    }
    assert "chi-squared(3) = 18.00, p = 0.00044" in table.caption
    assert "critical difference 1.91" in table.caption
    assert "lack runs of their own under each: dense" in table.caption, "it has only two runs"
    assert len(table.rows[0].cells[1].trials) == 12


def test_a_router_that_failed_under_a_condition_is_not_ranked(lab, store):
    made = lab(suites=("accuracy",))
    capacities = [{"capacity_factor": float(c)} for c in range(1, 6)]
    made.study_of({name: [mean] for name, mean in MEANS.items()}, capacities)
    for capacity in capacities[1:]:
        made.trial("sinkhorn_token_choice", 0, 0.9, capacity)
    made.trial("sinkhorn_token_choice", 0, None, capacities[0])
    table = ranks.table(load_study(store))
    assert {row.entry.label for row in table.rows} == set(MEANS)
    assert "lack runs of their own under each: sinkhorn_token_choice" in table.caption


@pytest.mark.parametrize("part", [ranks.table, lambda study: next(ranks.draw(study))])
def test_the_table_says_if_there_are_too_few_conditions(lab, store, part):
    absent = part(study_of(lab, store, 4))
    assert absent.why == TOO_FEW.format(4, 4)
    assert absent.fine


def test_the_report_says_if_there_are_too_few_conditions(written):
    sentence = TOO_FEW.format(1, 8)
    assert sentence in written.paths.markdown.read_text(encoding="utf-8")
    assert sentence.replace("'", "&#39;") in written.html


def test_the_diagram_is_drawn(lab, store):
    (drawing,) = ranks.draw(study_of(lab, store, 6))
    assert isinstance(drawing, Drawing)
    figure = drawing.figure
    assert figure.get_figwidth() == PAGE
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert {"CD = 1.91", "soft_moe  1.00", "4.00  random"} <= {text.get_text() for text in texts}
    assert min(text.get_fontsize() for text in texts) >= 7
    bars = [line for axes in figure.axes for line in axes.lines if line.get_linewidth() > 2]
    spans = {tuple(np.unique(np.asarray(line.get_xdata(), dtype=float))) for line in bars}
    assert {(span[0], span[-1]) for span in spans} == {(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)}
    image = imread(io.BytesIO(drawing.saved("png")))[..., :3]
    assert (image < 0.95).any(-1).mean() > 0.01


DRAW = """
import hashlib, sys
from report.study import load_study
from report.topics import ranks
from results import open_store

with open_store(sys.argv[1], read_only=True) as store:
    (drawing,) = ranks.draw(load_study(store))
print(hashlib.sha256(drawing.saved("svg")).hexdigest())
"""


@pytest.mark.slow
def test_the_diagram_is_bit_identical_for_any_hash_seed(lab, store):
    study_of(lab, store, 6)
    command = [sys.executable, "-c", DRAW, store.engine.url.database]
    drawn = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    ]
    assert drawn[0] == drawn[1] != b""


def test_a_single_condition_is_ranked_by_bootstrap(lab, store):
    lab(suites=("accuracy",)).study_of(
        {"soft_moe": [0.84, 0.86, 0.85], "my_gate": [0.80, 0.88, 0.85], "dense": [0.7, 0.7, None]}
    )
    study = load_study(store)
    table = ranks.bootstrap_table(study)
    assert [row.entry.label for row in table.rows] == ["soft_moe", "my_gate", "dense"]
    first, last = table.cell(0, "rank"), table.cell(2, "rank")
    assert (first.low, first.high) == (1, 2)
    assert (last.low, last.value, last.high) == (3, 3, 3)
    assert 0.5 < table.cell(0, "best").value < 1
    assert table.cell(0, "best").value + table.cell(1, "best").value == pytest.approx(1)
    assert len(first.trials) == 3
    assert len(last.trials) == 2
    (drawing,) = ranks.draw_intervals(study)
    texts = {text.get_text() for text in drawing.figure.findobj(Text)}
    assert {"soft_moe", "my_gate", "0 %", "rank by mean top-1"} <= texts


def test_one_run_per_router_leaves_nothing_to_resample(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.84], "my_gate": [0.80]})
    assert ranks.bootstrap_table(load_study(store)).why == (
        "with one seed and condition there is nothing to draw from"
    )


def test_ranks_over_conditions_resample_the_conditions_too(lab, store):
    table = ranks.bootstrap_table(study_of(lab, store, 3))
    assert [row.entry.label for row in table.rows][:2] == ["soft_moe", "softmax_token_choice"]
    assert "of 3 conditions" in table.caption
    assert len(table.cell(0, "rank").trials) == 6


def test_ranks_are_part_of_a_report(lab, store):
    tables = make_tables(study_of(lab, store, 5))
    assert {"ranks", "seeds"} <= {table.name for table in tables if isinstance(table, Table)}


def test_routers_with_equal_results_have_no_ranks(lab, store):
    top1 = {name: [0.8] for name in MEANS}
    lab(suites=("accuracy",)).study_of(top1, [{"capacity_factor": float(c)} for c in range(5)])
    assert ranks.table(load_study(store)).why == (
        "under each condition all routers reached the same accuracy"
    )


def test_the_summary_says_how_many_seeds_would_resolve_a_lead(lab, store):
    lab(suites=("accuracy",)).study_of(
        {"soft_moe": [0.84, 0.86, 0.85], "my_gate": [0.84, 0.85, 0.85], "dense": [0.7, 0.7, 0.71]}
    )
    study = load_study(store)
    (finding,) = findings(study)
    lead = next(each for each in finding.sentences if "Lead over the next, my_gate" in each)
    assert lead.startswith("Lead over the next, my_gate: 0.33 points, simultaneous 95 % interval −")
    # Differences of 0, 1 and 0 points: d_z = 0.577, which alone takes 26 pairs.
    seeds = int(
        re.search(r"not resolved\. A gap such as this one takes about (\d+) seeds", lead)[1]
    )
    table = differences.seeds_table(study)
    assert table.cell(0, "alone").words == "26"
    assert table.cell(0, "family").words == str(seeds)
    assert any(sentence.startswith("Lead over dense: 14.67") for sentence in finding.sentences)


def test_gaps_that_take_too_many_seeds_are_given_as_a_bound(lab, store):
    lab(suites=("accuracy",)).study_of(
        {"soft_moe": [0.84, 0.86, 0.85], "my_gate": [0.86, 0.84, 0.8499]}
    )
    study = load_study(store)
    assert differences.seeds_table(study).cell(0, "alone").words == "> 1,000"
    assert any("more than 1,000 seeds" in sentence for sentence in findings(study)[0].sentences)
