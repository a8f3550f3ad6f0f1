"""Few-shot accuracy is shown beside top-1 in the main table, and against training FLOPs."""

from __future__ import annotations

import pytest

from report.study import load_study
from report.table import Absent
from report.topics import accuracy, generic, transfer
from results import Component, Metric

FEWSHOT = Component(
    "suite",
    "fewshot",
    "class FewShot: ...",
    "f1",
    metrics=[
        {"name": name, "unit": "share", "better": "higher", "meaning": f"What {name} is."}
        for name in ("transfer_top1", "fewshot_top1")
    ],
    main_metric="transfer_top1",
)
TRANSFER = {"soft_moe": 0.4, "dense": 0.3}
"""Transfer accuracies; `random` was not measured."""


@pytest.fixture
def study(lab, store):
    made = lab(suites=("accuracy", "fewshot"), flops_error={"dense": 0.25})
    store.components([FEWSHOT])
    made.study_of({"soft_moe": [0.8] * 2, "dense": [0.75] * 2, "random": [0.1] * 2})
    for row in load_study(store).trials.itertuples():
        if (value := TRANSFER.get(row.entry.label)) is not None:
            few = {"data": "mnist5k"}
            metrics = [
                Metric("transfer_top1", value + 0.02 * row.seed, split="test"),
                Metric("fewshot_top1", 0.1, split="test", where={**few, "shots": 5}),
                Metric("fewshot_top1", value, split="test", where={**few, "shots": 10}),
            ]
            origin = ("fewshot", {}, FEWSHOT.source_hash, made.machine_ids[0], made.code)
            store.record_measurement(*origin, attempt_id=int(row.attempt), metrics=metrics)
    return load_study(store)


def test_few_shot_accuracy_appears_once_in_the_main_table_next_to_top1(study):
    table = accuracy.table(study)
    keys = [column.key for column in table.columns]
    assert keys[keys.index("top1") + 1] == "transfer_top1"
    assert [column.label for column in table.columns].count("10-shot") == 1
    assert not [key for key in keys if "transfer_top1" in key and key != "transfer_top1"]
    assert "10-shot: top-1 on the test splits of other data sets" in table.caption
    by_router = {row.entry.label: row for row in table.rows}
    cells = {name: row.cells[keys.index("transfer_top1")] for name, row in by_router.items()}
    assert cells["soft_moe"].value == pytest.approx(0.41)
    assert table.columns[keys.index("transfer_top1")].ranked
    assert cells["random"].value is None
    assert [column.key for column, *_ in generic.headlines(study)] == ["fewshot.transfer_top1"]


def test_a_study_without_few_shot_accuracy_has_no_such_column(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8], "dense": [0.7]})
    table = accuracy.table(load_study(store))
    assert "transfer_top1" not in [column.key for column in table.columns]
    (drawing,) = transfer.draw(load_study(store))
    assert len(drawing.figure.axes) == 1


def test_two_panels_show_accuracy_against_the_flops_spent(study):
    (drawing,) = transfer.draw(study)
    left, right = drawing.figure.axes
    assert [axes.get_ylabel() for axes in (left, right)] == ["top-1 (%)", "10-shot (%)"]
    for axes, accuracies in ((left, (75, 80)), (right, (31, 41))):
        drawn = sorted(tuple(line.get_xydata()[0]) for line in axes.lines)
        assert drawn == [(4e12, pytest.approx(accuracies[1])), (5e12, pytest.approx(accuracies[0]))]
    # The far-off null is named where it is left out.
    assert "random below: 10.0 %" in [text.get_text() for text in left.texts]


def test_a_line_joins_the_conditions_of_a_router(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]}, [{"top_k": 1}, {"top_k": 2}])
    (drawing,) = transfer.draw(load_study(store))
    (axes,) = drawing.figure.axes
    (line,) = axes.lines
    assert list(line.get_ydata()) == pytest.approx([80, 81])
    # Both spent the same: the axis does not magnify a zero difference.
    assert axes.get_xlim() == pytest.approx((3.6e12, 4.4e12))


def test_a_single_router_has_nothing_to_compare_with(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    (absent,) = transfer.draw(load_study(store))
    assert isinstance(absent, Absent)
