"""Accuracy against cost: each system at its values, and the front of undominated ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.conditions import Entry, System
from report.study import load_study
from report.table import Absent
from report.topics import pareto

places = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(places)
def test_the_front_is_what_nothing_surpasses(points):
    by_entry = {Entry(System(f"r{n}")): point for n, point in enumerate(points)}
    kept = {by_entry[entry] for entry in pareto.front(by_entry)}
    assert kept == {
        (cost, value)
        for cost, value in points
        if not any(
            other != (cost, value) and other[0] <= cost and other[1] >= value for other in points
        )
    }


def test_systems_are_drawn_at_their_measured_values(lab, store):
    top1 = {"dense": [0.6, 0.7], "soft_moe": [0.8, 0.9], "softmax_token_choice": [0.7, 0.8]}
    parameters = {"dense": 1000, "soft_moe": 3000, "softmax_token_choice": 2000}
    lab(suites=("accuracy", "throughput"), parameters=parameters).study_of(top1)
    (drawing,) = pareto.draw(load_study(store))
    milliseconds, by_parameters = drawing.figure.axes[:2]
    assert milliseconds.get_xlabel() == "forward, ms an image"
    assert by_parameters.get_xlabel() == "parameters", "no FLOPs were measured"
    alone = [line.get_xydata()[0] for line in by_parameters.lines if len(line.get_xdata()) == 1]
    drawn = dict(sorted(alone, key=tuple))
    assert drawn == pytest.approx({1000: 65, 2000: 75, 3000: 85})
    assert "n = 2" in drawing.caption
    assert (
        "whole models timed in turn, 32 × 49 × 96, 8 experts, 1 thread, on node-1"
        in drawing.caption
    )


def test_a_single_system_has_nothing_to_compare_with(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.9, 0.8]})
    (absent,) = pareto.draw(load_study(store))
    assert isinstance(absent, Absent)
    assert absent.fine
