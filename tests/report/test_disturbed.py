"""Timings disturbed by other processes are marked in every table, figure, page and file."""

from __future__ import annotations

import csv
import io

import pytest

from bench.cli.digest import digest
from bench.cli.summary import Row, main_columns, main_metrics
from report.latex import to_latex
from report.study import load_study
from report.summary import remarks
from report.topics import accuracy, control, cost
from report.write import write_report
from results import Component, Metric, Subject
from results.conditions import Condition

MARK = "¶"
WHERE = {
    **{"scope": "layer", "shape": "B", "batch": 64, "tokens": 49, "dim": 96, "hidden": 192},
    **{"num_experts": 8, "threads": 1},
}
NUMBERS = {"forward_ms": 3.0, "forward_overhead": 1.5, "train_ms": 9.0, "train_overhead": 1.4,
           "images_per_s": 20.0, "parameter_bytes": 5.0, "kept_bytes": 2.0, "other_load": 1.2,
           "forward_repeats": 30.0}  # fmt: skip
ROUTERS = {"dense": [0.8, 0.81], "random": [0.79, 0.8], "soft_moe": [0.86, 0.87]}


@pytest.fixture
def study_of(lab, store):
    """Add a study of three routers with timings, each with remarks beside its numbers."""

    def make(**noise: dict[str, float]):
        here = lab(suites=("accuracy",))
        here.study_of(ROUTERS)
        timed(here, "", noise)
        return load_study(store)

    def timed(here, named, noise):
        for router in ROUTERS:
            layer = store.layers([Subject(f"{router}{named}", here.described(router, {}))])[0]
            store.add_layer_to_study(here.study, layer)
            own = NUMBERS | noise.get(router, {})
            store.record_measurement(
                *("throughput", {}, "throughput", here.machine_ids[0], here.code),
                layer_id=layer,
                metrics=[Metric(name, value, where=WHERE) for name, value in own.items()],
            )

    make.timed = timed
    return make


def marked(table) -> set[tuple[str, str]]:
    """Return router and column of the marked cells."""
    return {
        (row.entry.label, column.key)
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if MARK in cell.marks
    }


def test_only_the_times_of_the_disturbed_pass_are_marked(study_of):
    study = study_of(random={"disturbed": 1, "train_disturbed": 0}, soft_moe={"disturbed": 0})
    forward = ("forward_ms", "forward_overhead", "images_per_s")
    assert marked(cost.table(study)) == {("random", key) for key in forward}
    assert marked(accuracy.table(study)) == {("random", "forward_overhead")}
    summary = " ".join(remarks(study))
    assert "Of 6 timings 1 were taken while other processes kept the machine busy (¶)" in summary


def test_forward_and_training_passes_are_marked_separately(study_of):
    study = study_of(random={"disturbed": 0, "train_disturbed": 1})
    assert marked(cost.table(study)) == {
        ("random", "train_ms"),
        ("random", "train_overhead"),
    }
    assert marked(accuracy.table(study)) == set()


def test_figures_mark_disturbed_numbers_and_explain_the_mark(study_of):
    (drawing,) = cost.draw(study_of(random={"disturbed": 1}))
    (axes,) = drawing.figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["1.40"] * 3 + ["1.50"] * 2 + ["1.50¶"]
    assert "¶: timed while other processes kept the machine busy" in drawing.caption


def test_costs_by_number_of_experts_are_marked_per_point(lab, store):
    here = lab(suites=())
    for number, disturbed in ((4, 0), (16, 1)):
        described = here.described("soft_moe", {})
        described["experts"] = {"name": "mlp", "num_experts": number, "options": {}}
        layer = store.layers([Subject(f"{number}", described)])[0]
        store.add_layer_to_study(here.study, layer)
        own = NUMBERS | {"disturbed": disturbed}
        where = {**WHERE, "num_experts": number}
        store.record_measurement(
            *("throughput", {}, "throughput", here.machine_ids[0], here.code),
            layer_id=layer,
            metrics=[Metric(name, value, where=where) for name, value in own.items()],
        )
    (drawing,) = cost.draw_scaling(load_study(store))
    forward, train, memory = drawing.figure.axes
    assert [(text.get_text(), text.xy[0]) for text in forward.texts] == [(MARK, 16)]
    assert not train.texts
    assert not memory.texts
    assert MARK in drawing.caption


def test_undisturbed_timings_have_no_mark_and_no_note(study_of):
    study = study_of(random={"disturbed": 0, "train_disturbed": 0})
    assert marked(cost.table(study)) == marked(accuracy.table(study)) == set()
    assert not [remark for remark in remarks(study) if MARK in remark]
    (drawing,) = cost.draw(study)
    assert MARK not in drawing.caption


def test_the_control_marks_a_ratio_if_either_side_was_disturbed(study_of, lab, store):
    study_of()
    replicates = lab(suites=("accuracy",), aa_replicate=1)
    replicates.study_of(ROUTERS)
    study_of.timed(replicates, " twin", {"soft_moe": {"disturbed": 1}})
    cells = marked(control.table(load_study(store)))
    assert cells == {("soft_moe", "forward_ms"), ("soft_moe", "forward_overhead")}


def test_every_file_of_the_report_shows_the_mark(study_of, store, tmp_path):
    study = study_of(random={"disturbed": 1})
    paths = write_report(store, "tiny", tmp_path / "report")
    assert "1.50¶" in paths.markdown.read_text(encoding="utf-8")
    assert "<sup>¶</sup>" in paths.index_html.read_text(encoding="utf-8")
    assert r"1.50{$^\mathparagraph$}" in to_latex(accuracy.table(study))
    text = (paths.folder / "tables" / "main.csv").read_text(encoding="utf-8")
    rows = {row["router"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["random"]["forward_overhead_marks"] == MARK
    assert rows["soft_moe"]["forward_overhead_marks"] == ""


def test_the_terminal_and_the_digest_show_the_mark_too(study_of, store, tmp_path):
    study_of(random={"forward_overhead": 1.1, "disturbed": 1})
    metric = {"name": "forward_overhead", "unit": "", "better": "lower", "meaning": "Time."}
    store.components([Component("suite", "throughput", "", "throughput", metrics=[metric])])[0]
    (column,) = [c for c in main_columns(main_metrics(store, "tiny")) if c.suite == "throughput"]
    assert column.cell(Row("random", Condition())) == "1.10¶"
    assert column.cell(Row("soft_moe", Condition())) == "1.50"
    assert column.meaning.endswith("↓ (¶ other processes kept the machine busy)")
    assert "random: 1.10¶" in digest(store, "tiny", tmp_path)
