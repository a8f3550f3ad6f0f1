"""Results of older code stay in a report, marked, and a sentence names them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from report.claims import Claim
from report.conditions import Entry, System
from report.marks import changed
from report.study import load_study
from report.table import OLDER, Table
from report.topics import accuracy, claims, compute, differences, make_tables, trials
from report.write import write_report

SENTENCE = (
    "From older code than the newest results here: dense, random; since then protocol 'training' "
    "changed."
)


@pytest.fixture
def study(lab, store):
    """A study of three routers, one of them retrained after the training protocol changed."""
    made = lab(suites=("accuracy", "balance"))
    top1 = {"dense": [0.7, 0.72], "random": [0.6, 0.61], "soft_moe": [0.8, 0.82]}
    made.study_of(top1)
    made.protocol = "second"
    made.study_of({"soft_moe": top1["soft_moe"]})
    return load_study(store)


def marked(table, key="router"):
    keys = [column.key for column in table.columns]
    cells = [row.cells[keys.index(key)] for row in table.rows if key in keys]
    return {cell.words for cell in cells if OLDER in cell.marks}


def test_a_study_of_a_single_code_version_has_no_marks(written):
    assert not any(OLDER in part.caption or marked(part) for part in written.tables.values())
    assert "From older code" not in written.html


def test_rows_of_older_code_are_marked_and_named_in_the_caption(study):
    table = accuracy.table(study)
    assert marked(table) == {"dense", "random"}
    assert f"{OLDER} {SENTENCE}" in table.caption
    listed = trials.trials(study)
    assert marked(listed) == {"dense", "random"}
    assert f"{OLDER} {SENTENCE}" in listed.caption
    assert len(listed.rows) == 6, "replaced results are not shown"


def test_a_reference_of_older_code_is_marked_too(study):
    table = differences.to_nulls(study)
    assert marked(table) == set()
    assert marked(table, "reference") == {"dense", "random"}
    assert "random, dense" in table.caption or "dense, random" in table.caption


def test_a_reference_without_a_setting_of_its_row_is_marked_too(lab, store):
    made = lab(suites=("accuracy",))
    capacities = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    made.study_of({"dense": [0.7, 0.72], "soft_moe": [0.8, 0.82]}, capacities)
    made.protocol = "second"
    made.study_of({"soft_moe": [0.8, 0.82]}, capacities)
    study = load_study(store)
    table = differences.to_nulls(study)
    keys = [column.key for column in table.columns]
    assert [row.cells[keys.index("reference")].marks for row in table.rows] == [(OLDER,)] * 2
    assert "newest results here: dense;" in table.caption


def test_spending_and_rankings_are_marked_too(study):
    for table in (compute.table(study), compute.rankings_table(study)):
        assert marked(table) == {"dense", "random"}


def test_a_claim_decided_by_older_runs_is_marked(study):
    claim = Claim(
        id="mine", claim="Soft is better.", source="me", metric="top1", test="higher",
        left={"routers": ["soft_moe"]}, right={"routers": ["random"]},
        supported_if="it is", contradicted_if="it is not",
    )  # fmt: skip
    table = claims.table(replace(study, claims=(claim,)))
    assert marked(table, "id") == {"mine"}
    assert f"{OLDER} From older code than the newest results here: random;" in table.caption


def test_a_table_of_newer_numbers_alone_has_no_marks(study):
    tables = {table.name: table for table in make_tables(study) if isinstance(table, Table)}
    balance = tables["balance"]
    assert marked(balance) == {"random"}, "dense has no balance"
    assert "newest results here: random" in balance.caption


def test_marks_and_sentence_appear_throughout_the_report(study, store, tmp_path):
    paths = write_report(store, "tiny", tmp_path)
    markdown = paths.markdown.read_text(encoding="utf-8")
    html = paths.index_html.read_text(encoding="utf-8")
    figures = markdown[markdown.index("## Figures") :]
    assert figures.count(SENTENCE) >= 2, "accuracy and training"
    summary = markdown[: markdown.index("## Tables")]
    assert SENTENCE in summary
    assert html.count(SENTENCE.replace("'", "&#39;")) >= 5
    assert f"<sup>{OLDER}</sup>" in html
    assert r"random$^\mathsection$" in (tmp_path / "tables" / "main.tex").read_text()


def test_a_suite_of_newer_code_makes_the_others_older(lab, store):
    made = lab(suites=("accuracy", "balance"))
    made.study_of({"random": [0.6], "soft_moe": [0.8]})
    attempt = store.done_attempt("tiny-soft_moe-0-{}")
    store.record_measurement(
        "balance", {}, "balance of newer code", made.machine_ids[0], made.code,
        attempt_id=attempt.id,
    )  # fmt: skip
    study = load_study(store)
    assert changed(study, Entry(System("random")), ["balance"]) == {"suite 'balance'"}
    assert changed(study, Entry(System("random")), ["accuracy"]) == set()
