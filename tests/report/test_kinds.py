"""The table and the figure of several kinds of experts show what the suite stored."""

from __future__ import annotations

import numpy as np
import pytest

from report.study import load_study
from report.table import Absent
from report.topics import kinds
from results import Array, Metric

NAMES = ["mlp", "constant", "copy", "zero"]
SHARES = np.array([[0.5, 0.2, 0.2, 0.1], [0.8, 0.1, 0.1, 0.0]])  # of two classes


@pytest.fixture
def study(lab, store):
    made = lab(suites=("accuracy",))
    made.study_of({"soft_moe": [0.8] * 2, "softmax_token_choice": [0.75] * 2})
    for row in load_study(store).trials.itertuples():
        own = row.entry.label == "soft_moe"
        flops = Metric("flops_per_image", 60.0 + row.seed if own else 100.0)
        origin = ("accuracy", {"n": 2}, "accuracy", made.machine_ids[0], made.code)
        store.record_measurement(*origin, attempt_id=int(row.attempt), metrics=[flops])
        metrics, arrays = [Metric("H_s", 1.0, split="test")], []
        if own:
            metrics += [
                Metric("kind_share", share, split="test", where={"kind_of_expert": name})
                for name, share in zip(NAMES, SHARES.mean(0).tolist(), strict=True)
            ]
            for layer in (0, 1):
                values = SHARES[:: 1 - 2 * layer]
                arrays += [Array("class_kind", values, layer, split="test")]
                arrays += [Array("kind_names", np.array(NAMES), layer)]
        origin = ("entropy", {}, "entropy", made.machine_ids[0], made.code)
        store.record_measurement(
            *origin, attempt_id=int(row.attempt), metrics=metrics, arrays=arrays
        )
    return load_study(store)


def test_each_router_with_several_kinds_of_experts_has_a_row(study):
    table = kinds.table(study)
    assert [row.entry.label for row in table.rows] == ["soft_moe"]
    shares = [table.cell(0, f"kind_{name}").value for name in NAMES]
    assert shares == pytest.approx([0.65, 0.15, 0.15, 0.05])
    # 60 and 61 FLOPs per image against 100.
    assert table.cell(0, "flops_saved").value == pytest.approx(0.395)


def test_flops_are_saved_relative_to_the_plain_router_under_the_same_condition(lab, store):
    made = lab(suites=("accuracy",))
    conditions = [{"capacity_factor": factor} for factor in (1, 2)]
    made.study_of({"soft_moe": [0.8], "softmax_token_choice": [0.75]}, conditions)
    for row in load_study(store).trials.itertuples():
        plain = 100 * float(row.entry.condition.mapping["router.capacity_factor"])
        value = plain if row.entry.system.router == kinds.PLAIN else 0.75 * plain
        origin = ("accuracy", {"n": 2}, "accuracy", made.machine_ids[0], made.code)
        flops = Metric("flops_per_image", value)
        store.record_measurement(*origin, attempt_id=int(row.attempt), metrics=[flops])
    study = load_study(store)
    saved = [kinds.saved(study, e).value for e in study.entries if e.label == "soft_moe"]
    assert saved == [0.25, 0.25]


def test_there_is_one_panel_per_layer_with_one_stacked_bar_per_class(study):
    (drawing,) = kinds.draw(study)
    first, second = drawing.figure.axes
    titles = [axes.get_title(loc="left").splitlines() for axes in (first, second)]
    assert titles == [["soft_moe", "layer 0"], ["soft_moe", "layer 1"]]
    for axes, expected in ((first, SHARES), (second, SHARES[::-1])):
        heights = [[bar.get_height() for bar in kind] for kind in axes.containers]
        np.testing.assert_allclose(heights, 100 * expected.T)
        tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
        assert tops == pytest.approx([100, 100])


def test_a_study_with_one_kind_of_experts_has_neither_table_nor_figure(lab, store):
    lab(suites=("accuracy", "entropy")).study_of({"soft_moe": [0.8]})
    study = load_study(store)
    assert isinstance(kinds.table(study), Absent)
    assert all(isinstance(part, Absent) for part in kinds.draw(study))
