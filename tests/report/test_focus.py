"""Far-off nulls are named at the edge of a figure, so that routers can be told apart."""

import pytest

from report.axes import far_nulls
from report.conditions import Entry, System
from report.study import load_study
from report.topics import accuracy, budgets

NEAR = {"soft_moe": [0.80, 0.82], "softmax_token_choice": [0.81, 0.83], "dense": [0.78, 0.80]}


@pytest.fixture
def study(lab, store):
    def made(**others):
        lab(suites=("accuracy",), begin=0.5).study_of({**NEAR, **others})
        return load_study(store)

    return made


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([76.0, 77.0], None),
        ([72.9, 78.5], None),  # one of its runs is near
        ([72.0, 72.9], False),  # 5 points below 78
        ([88.1, 89.0], True),  # 5 points above 83
    ],
)
def test_a_null_is_far_off_only_if_all_its_runs_are(study, values, far):
    entries = {e: [100 * x for x in NEAR[e.label]] for e in study().entries}
    null = Entry(System("dense_params"))
    assert far_nulls(study(), entries | {null: values}) == ({} if far is None else {null: far})


def test_routers_and_dense_are_never_left_out(study):
    focused = study(my_gate=[0.1, 0.12], dense=[0.3, 0.31])
    values = {entry: list(100 * focused.final("top1", entry)) for entry in focused.entries}
    assert far_nulls(focused, values) == {}


@pytest.mark.parametrize("draw", [accuracy.draw, accuracy.draw_training, budgets.draw])
def test_figures_zoom_in_on_the_routers_and_name_a_far_off_null(study, draw):
    (drawing,) = draw(study(dense_params=[0.30, 0.34], random=[0.77, 0.78]))
    axes = drawing.figure.axes[0]
    low, _ = axes.get_xlim() if draw is accuracy.draw else axes.get_ylim()
    assert low > 35
    # In the lab, validation accuracy is a little lower than test accuracy.
    expected = "◂ 32.0 ± " if draw is accuracy.draw else "dense_params below: 31.8 %"
    assert [text.get_text().startswith(expected) for text in axes.texts].count(True) == 1


def test_a_nearby_null_is_shown_on_the_axis(study):
    (drawing,) = accuracy.draw(study(random=[0.74, 0.76]))
    assert drawing.figure.axes[0].get_xlim()[0] < 74
    assert "Arrow" not in drawing.caption
