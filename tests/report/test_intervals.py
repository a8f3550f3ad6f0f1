"""The axis of accuracies: near the means, within the possible range, with cuts marked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.axes import CUT, LEAST, beyond, halves, limits
from report.study import load_study
from report.style import panels, style
from report.topics import accuracy
from results.statistics.means import mean_interval

SEEDS = st.lists(st.floats(0, 100), min_size=1, max_size=5)


@given(st.lists(SEEDS, min_size=1, max_size=6))
def test_an_axis_holds_every_seed_and_nothing_impossible(groups):
    values = [value for group in groups for value in group]
    intervals = [mean_interval(group) for group in groups]
    low, high = limits(values, intervals)
    assert 0 <= low < high <= 100
    assert low <= min(values)
    assert max(values) <= high
    room = max((max(values) - min(values)) / 2, LEAST)
    width = max(values) - min(values) + 2 * room
    assert high - low <= max(1.08 * width, width + 1) + 1e-9
    for interval in intervals:
        drawn = halves(interval, (low, high))
        if drawn is not None:
            (below,), (above,) = drawn
            assert low <= interval.mean - below + 1e-9
            assert interval.mean + above <= high + 1e-9
            if not beyond(interval, (low, high)):
                assert below + above == pytest.approx(interval.high - interval.low)
            else:
                assert below + above < interval.high - interval.low


@given(st.floats(20, 80), st.lists(st.floats(-1, 1), min_size=2, max_size=5))
def test_narrow_intervals_are_never_cut(centre, offsets):
    values = [centre + offset for offset in offsets]
    interval = mean_interval(values)
    if interval.high - interval.low < LEAST:
        assert not beyond(interval, limits(values, [interval]))


def test_wide_intervals_of_two_seeds_are_cut_and_marked(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.3, 0.4], "my_gate": [0.34, 0.35]})
    drawing = next(accuracy.draw(load_study(store)))
    (axes,) = drawing.figure.axes
    low, high = axes.get_xlim()
    assert (low, high) == pytest.approx((25 - 0.8, 45 + 0.8))
    cut = {(line.get_marker(), *line.get_xydata()[0]) for line in axes.lines}
    routers = [label.get_text() for label in axes.get_yticklabels()]
    place = routers.index("soft_moe")
    assert {("<", low, place), (">", high, place)} <= cut
    assert not {("<", low, 1 - place), (">", high, 1 - place)} & cut
    assert CUT in drawing.caption


def test_intervals_of_three_similar_seeds_are_not_cut(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.3, 0.31, 0.32]})
    assert CUT not in next(accuracy.draw(load_study(store))).caption


@pytest.mark.parametrize(("count", "columns"), [(1, 2), (5, 2), (7, 4), (8, 4), (5, 3)])
def test_the_last_panel_of_every_column_has_tick_labels(count, columns):
    with style():
        figure, axes = panels(count, columns, 6.75, 1.0, sharex=True, sharey=True)
        for place in axes:
            place.plot([0, 1])
        figure.draw_without_rendering()
    for place in axes[-columns:]:
        shown = [label.get_text() for label in place.get_xticklabels() if label.get_visible()]
        assert any(shown)


def test_with_five_conditions_both_columns_name_their_axis(lab, store):
    conditions = [{"capacity_factor": number / 2} for number in range(1, 6)]
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.3, 0.31]}, conditions)
    figure = next(accuracy.draw(load_study(store))).figure
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False] * 3 + [True] * 2
    texts = [
        [t.get_text() for t in axes.get_xticklabels() if t.get_visible()] for axes in figure.axes
    ]
    assert [any(shown) for shown in texts] == [False] * 3 + [True] * 2
