"""The win matrix: differences of all compared pairs, and which of them are resolved."""

from __future__ import annotations

import numpy as np
import pytest

from report.comparisons import comparisons
from report.study import load_study
from report.table import Absent
from report.topics import wins

TOP1 = {
    "dense": [0.70, 0.71, 0.72],
    "softmax_token_choice": [0.80, 0.81, 0.82],
    "soft_moe": [0.90, 0.91, 0.92],
    "my_gate": [0.80, 0.82, 0.81],
}


def test_each_pair_shows_its_difference_and_resolved_ones_are_framed(lab, store):
    lab(suites=("accuracy",)).study_of(TOP1)
    study = load_study(store)
    (drawing,) = wins.draw(study)
    axes = drawing.figure.axes[0]
    labels = [text.get_text().split() for text in axes.get_yticklabels()]
    names = [name for name, _ in labels]
    assert names[0] == "soft_moe"
    assert names[-1] == "dense"
    assert [text.get_text() for text in axes.get_xticklabels()] == [number for _, number in labels]
    points = axes.images[0].get_array().filled(np.nan)
    place = {name: number for number, name in enumerate(names)}
    assert points[place["soft_moe"], place["dense"]] == pytest.approx(20.0)
    assert points == pytest.approx(-points.T, nan_ok=True)
    assert np.isnan(points.diagonal()).all()
    framed = {(round(p.get_y() + 0.44), round(p.get_x() + 0.44)) for p in axes.patches}
    resolved = {
        tuple(place[entry.label] for entry in pair)
        for each in comparisons(study)
        if each.resolved
        for pair in ((each.entry, each.reference), (each.reference, each.entry))
    }
    assert framed == resolved
    assert (place["softmax_token_choice"], place["my_gate"]) not in framed


def test_a_single_router_has_no_matrix(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.9, 0.8]})
    (absent,) = wins.draw(load_study(store))
    assert isinstance(absent, Absent)
    assert absent.fine
