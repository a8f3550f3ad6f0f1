"""A suite unknown to the report: everything comes from the definitions in the database."""

from __future__ import annotations

from math import sqrt

import pytest

from report.numbers import trace
from report.study import BUILT_IN, load_study
from report.table import CONSTANT, Table
from report.topics import generic, make_tables
from report.topics.make import FigureMaker
from report.topics.suite_numbers import cards
from report.write import check, write_report
from results import Component, Metric, Subject
from suites import SUITES

T_2 = 4.302652729911275
"""The 97.5th percentile of Student's t with two degrees of freedom."""
CONFIDENCE = Component(
    "suite",
    "my/confidence",
    "class Confidence: ...",
    "c1",
    summary="How sure the model is.",
    metrics=[
        {"name": "spread", "unit": "logit", "better": None, "meaning": "Spread of the logits."},
        {
            **{"name": "confidence", "unit": "share", "better": "higher"},
            **{"meaning": "Mean of the highest probability.", "where": {"of": "softmax"}},
        },
        {"name": "top1", "unit": "", "better": "lower", "meaning": "Not that of accuracy."},
    ],
    main_metric="confidence",
)
WEIGHTS = Component(
    "suite",
    "weights",
    "class Weights: ...",
    "w1",
    metrics=[{"name": "weights", "unit": "", "better": "lower", "meaning": "Of a bare layer."}],
)


def confidence(value: float) -> list[Metric]:
    """Return what the suite of trials measures: the network, two layers, and two snapshots."""
    made = [
        Metric("spread", 100 * value, split="test"),
        Metric("confidence", value, split="test", where={"of": "softmax"}),
        Metric("confidence", value / 2, split="test", where={"of": "sigmoid"}),
        Metric("confidence", 0.99, split="train", where={"of": "softmax"}),
        Metric("top1", 7.0, split="test", where={"constant": True}),
    ]
    made += [Metric("spread", layer + value, layer, split="test") for layer in (0, 1)]
    for step in (0, 200, 400):
        where = {"of": "softmax", "flops": 1e9 * step}
        made.append(Metric("confidence", value * step / 400, None, step, "val", where))
    return made


@pytest.fixture
def measured(lab, store):
    """A study of two routers and a baseline whose trials and bare layers were measured."""
    made = lab(suites=("accuracy", "throughput", "my/confidence", "weights"), machines=("a", "b"))
    for card in (CONFIDENCE, WEIGHTS):
        store.components([card])[0]
    made.study_of({"soft_moe": [0.8] * 3, "random": [0.7] * 3, "dense": [0.75] * 3})
    attempts = load_study(store).trials
    for number, row in enumerate(attempts.itertuples()):
        result = {"status": "skipped", "error": "no MoE layer"}
        if row.entry.label != "dense":
            result = {"metrics": confidence(0.5 + 0.01 * number)}
        origin = ("my/confidence", {}, CONFIDENCE.source_hash, made.machine_ids[0], made.code)
        store.record_measurement(*origin, attempt_id=int(row.attempt), **result)
    for router, value in (("soft_moe", 2e6), ("random", 1e6)):
        layer = store.layers([Subject(f"tiny-{router}-{{}}", made.described(router, {}))])[0]
        for place, machine in enumerate(made.machine_ids):
            result = {"metrics": [Metric("weights", value + place)]}
            origin = ("weights", {}, WEIGHTS.source_hash, machine, made.code)
            store.record_measurement(*origin, layer_id=layer, **result)
    return store


def tables_of(store) -> dict[str, Table]:
    return {t.name: t for t in make_tables(load_study(store)) if isinstance(t, Table)}


def test_most_suites_of_this_project_have_a_dedicated_section():
    built_in = {n for n in SUITES.names() if SUITES.get(n).target.__module__.startswith("suites.")}
    # These need no more than the generic section.
    assert built_in - {"fewshot", "stability"} == BUILT_IN


def test_each_router_has_a_row_with_the_mean_and_interval_of_each_number(measured):
    (name,) = (name for name in tables_of(measured) if name.startswith("suite_my-confidence-"))
    table = tables_of(measured)[name]
    assert [row.entry.label for row in table.rows] == ["random", "soft_moe"]
    assert [column.heading for column in table.columns] == [
        *("router", "n", "confidence, of softmax (%)", "confidence, of softmax, split train (%)"),
        *("confidence, of sigmoid (%)", "spread (logit)", "top1"),
    ]
    soft = table.cell(1, "confidence, of softmax")
    half = T_2 * 0.01 / sqrt(3)
    assert [soft.value, soft.low, soft.high] == pytest.approx([0.51, 0.51 - half, 0.51 + half])
    ranked = [column.key for column in table.columns if column.ranked]
    assert "confidence, of softmax" in ranked
    assert "spread" not in ranked, "no direction is better"
    assert table.cell(0, "top1").marks == (CONSTANT,)
    for text in ("How sure the model is.", "spread: Spread of the logits.", "Student t interval"):
        assert text in table.caption


def test_numbers_of_layers_have_their_own_table(measured):
    tables = tables_of(measured)
    (name,) = (name for name in tables if name.startswith("all_of_my-confidence-"))
    keys = [column.key for column in tables[name].columns]
    spread = {
        (row.entry.label, row.cells[keys.index("layer")].words): row.cells[
            keys.index("spread")
        ].value
        for row in tables[name].rows
        if not row.cells[keys.index("where")].words
    }
    assert spread["soft_moe", "0"] == pytest.approx(0.51)
    assert spread["soft_moe", "1"] == pytest.approx(1.51)
    assert spread["soft_moe", "all"] == pytest.approx(51)
    assert "all_of_weights" not in tables


def test_bare_layers_are_never_pooled_over_machines(measured):
    table = tables_of(measured)["suite_weights"]
    values = {(row.entry.label, row.cells[1].words): row.cells[2].value for row in table.rows}
    assert values == {
        ("random", "a"): 1e6,
        ("soft_moe", "a"): 2e6,
        ("random", "b"): 1e6 + 1,
        ("soft_moe", "b"): 2e6 + 1,
    }
    assert table.columns[2].heading == "weights (M, n=1)"


def test_the_main_table_has_the_main_metric_of_each_suite(measured):
    table = tables_of(measured)["main"]
    routers = [row.entry.label for row in table.rows]
    number = routers.index("soft_moe")
    assert table.cell(number, "my/confidence.confidence").value == pytest.approx(0.51)
    assert table.cell(number, "weights.weights").value == 2e6
    assert table.cell(number, "top1").value == pytest.approx(0.8), "a metric of the same name"
    assert table.cell(routers.index("dense"), "my/confidence.confidence").words == "n/a"
    assert "(suite my/confidence): Mean of the highest probability." in table.caption
    assert "(suite weights, bare layers on a): Of a bare layer." in table.caption


@pytest.mark.slow
def test_each_number_is_traced_and_checked(measured, tmp_path):
    folder = write_report(measured, "tiny", tmp_path / "report").folder
    checked = check(measured, folder)
    assert checked.wrong == checked.edited == ()
    study = load_study(measured, "tiny")
    (name,) = (name for name in tables_of(measured) if name.startswith("suite_my-confidence-"))
    traced = trace(measured, study, name, "soft_moe", "confidence, of softmax")
    assert [source.value for source in traced.sources] == ["50.0", "51.0", "52.0"]
    (layer,) = trace(measured, study, "main", "random", "weights.weights").sources
    assert layer.trial == "tiny-random-{}"


def test_the_page_has_a_section_with_curves_and_collapsed_layers(measured, tmp_path):
    paths = write_report(measured, "tiny", tmp_path / "report")
    html = paths.index_html.read_text(encoding="utf-8")
    (card,) = (card for card in cards(load_study(measured)) if "/" in card.name)
    section = html[html.index(f'<section id="suite-{card.slug}">') :]
    section = section[: section.index("</section>")]
    shown, folded = section.split("<details>")
    assert "<h2>My/confidence</h2>" in shown
    assert f'id="table-suite_{card.slug}"' in shown
    assert f'id="figure-suite_{card.slug}"' in shown
    assert "training steps so far. Line: mean" in shown
    assert "<p>confidence, of softmax: Mean of the highest probability.</p>" in shown
    assert f'id="table-all_of_{card.slug}"' in folded
    assert f"figures/suite_{card.slug}.png" in paths.markdown.read_text(encoding="utf-8")
    assert '<section id="suite-weights">' in html


def test_the_curve_is_the_mean_over_seeds_at_each_snapshot(measured):
    study = load_study(measured)
    (made,) = [m for s in generic.sections(study) for m in s.shown if isinstance(m, FigureMaker)]
    (drawing,) = made(study)
    (axes,) = drawing.figure.axes
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in axes.get_lines()}
    assert list(lines) == [(0, 200, 400)]
    ends = sorted(line.get_ydata()[-1] for line in axes.get_lines())
    assert ends == pytest.approx([51, 54])
    assert axes.get_ylabel() == "confidence, of softmax (%) ↑"


def test_a_suite_that_measured_nothing_says_why(lab, store, tmp_path):
    lab(suites=("accuracy", "never_seen")).study_of({"soft_moe": [0.8, 0.81]})
    paths = write_report(store, "tiny", tmp_path / "report")
    assert paths.missing["Never seen by router"] == "no finished trial was measured by never_seen"
