"""The heat map of affinities against routers: its cells, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from report.study import load_study
from report.table import Absent
from report.topics import affinities

TOP1 = {"dense": [0.5, 0.6], "soft_moe": [0.7, 0.8], "softmax_token_choice": [0.6, 0.8]}


def test_each_cell_is_the_mean_of_one_router_with_one_affinity(lab, store):
    swept = [{"affinity": name} for name in ("linear", "cosine")]
    lab(suites=("accuracy",)).study_of(TOP1, swept)
    (drawing,) = affinities.draw(load_study(store))
    axes = drawing.figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["cosine", "linear"]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(rows) == ["soft_moe", "softmax_token_choice"]
    cells = dict(zip(rows, np.asarray(axes.images[0].get_array()), strict=True))
    # The lab adds a point to the second condition.
    assert cells["soft_moe"] == pytest.approx([76.0, 75.0])
    assert cells["softmax_token_choice"] == pytest.approx([71.0, 70.0])
    assert "75.0 ± 63.5" in {text.get_text() for text in axes.texts}


def test_each_value_of_other_settings_has_its_own_figure(lab, store):
    swept = [
        {"affinity": affinity, "top_k": number}
        for affinity in ("linear", "cosine")
        for number in (1, 2)
    ]
    lab(suites=("accuracy",)).study_of(TOP1, swept)
    drawings = list(affinities.draw(load_study(store)))
    titles = [drawing.title for drawing in drawings]
    assert titles == [f"Affinity × allocation, router.top_k={number}" for number in (1, 2)]
    assert len({drawing.name for drawing in drawings}) == 2


def test_a_single_affinity_has_no_heat_map(lab, store):
    lab(suites=("accuracy",)).study_of(TOP1, [{"affinity": "linear"}])
    (absent,) = affinities.draw(load_study(store))
    assert isinstance(absent, Absent)
    assert absent.fine
