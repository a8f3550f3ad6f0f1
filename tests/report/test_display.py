"""Display names of routers, as in a paper: on the page, in tables, figures and LaTeX."""

from __future__ import annotations

import pytest

from report import numbers
from report.render import to_csv, to_markdown
from report.study import load_study
from report.summary import compared, findings
from report.topics import accuracy, provenance
from report.topics.make import Table
from routers import ROUTERS

DISPLAYS = {"soft_moe": "Soft MoE", "random": "Random_1 & more", "softmax_token_choice": "Softmax"}
VALUES = {"random": [0.79, 0.80], "softmax_token_choice": [0.83, 0.84], "soft_moe": [0.86, 0.87]}


@pytest.fixture
def study(lab, store):
    lab(displays=DISPLAYS, suites=("accuracy",)).study_of({**VALUES, "my_gate": [0.6, 0.6]})
    return load_study(store, "tiny")


def test_a_report_prints_the_display_name_or_else_the_registered_one(study):
    table = accuracy.table(study)
    assert isinstance(table, Table)
    rows = [row.cells[0].words for row in table.rows]
    assert rows == ["Random_1 & more", "Softmax", "my_gate", "Soft MoE"]
    assert "| Soft MoE |" in to_markdown(table)
    assert "\nSoft MoE," in to_csv(table)
    assert findings(study)[0].headline.startswith("Best: Soft MoE, 86.5")
    assert "1 baseline (Random_1 & more)" in compared(study)


def test_a_display_name_changes_neither_order_nor_colours(study, lab, store):
    lab(name="plain", suites=("accuracy",)).study_of({**VALUES, "my_gate": [0.6, 0.6]})
    plain = load_study(store, "plain")
    assert plain.systems == study.systems
    assert plain.styles == study.styles
    assert [system.key for system in study.systems] == [each.router for each in plain.systems]


@pytest.mark.parametrize("row", ["soft_moe", "Soft MoE"])
def test_a_number_can_be_traced_by_either_name(study, store, row):
    traced = numbers.trace(store, study, "main", row, "top1")
    assert traced.number.row == "Soft MoE"
    assert [source.value for source in traced.sources] == ["86.0", "87.0"]


def test_the_card_of_a_router_shows_both_names(study):
    cards = {card["name"]: card["system"].label for card in provenance.router_cards(study)}
    assert cards["soft_moe"] == "Soft MoE"
    assert cards["my_gate"] == "my_gate"


def test_every_router_of_the_bench_has_a_unique_display_name():
    displays = [entry.display for entry in ROUTERS.entries()]
    assert len(set(displays)) == len(displays)
    assert not any("_" in display for display in displays)
