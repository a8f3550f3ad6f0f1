"""How a report describes the tuning of routers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from report.study import StudyData, load_study
from report.style import Drawing
from report.summary import remarks
from report.table import Absent, Table
from report.topics import draw_figures, make_tables
from report.topics.tuning import unequal

TOP1: dict[str, list[float | None]] = {"soft_moe": [0.8, 0.82], "dense": [0.7, 0.71]}
WARNING = "Tuning was not equal: 4 for soft_moe; 2 for dense (trainings)."


def tuning_record(values: list[float | None], **changes: Any) -> dict[str, Any]:
    """Return the record of a router's tuning; its first trial is the best."""
    return {
        "trials": len(values),
        "done": len(values) - 2,
        "pruned": 1,
        "failed": 1,
        "values": values,
        "best": values[0],
        "settings": {"train.lr": 0.0012345, "router.affinity": "cosine"},
        "training": "0123456789abcdef",
        **changes,
    }


@pytest.fixture
def study(lab, store) -> Callable[..., StudyData]:
    def make(tuned: dict[str, Any], **preset: Any) -> StudyData:
        made = lab()
        made.study_of(TOP1)
        request = store.find_study(made.name).request
        asked = {**request, "preset": {**request["preset"], **preset}, "tuned": tuned}
        store.study(made.name, asked)
        return load_study(store, made.name)

    return make


def table_of(study: StudyData, name: str) -> Table | Absent:
    return next(part for part in make_tables(study) if part.name == name)


def drawing_of(study: StudyData) -> Drawing | Absent:
    return next(part for part in draw_figures(study) if part.name == "tuning")


EQUAL = {
    "soft_moe": tuning_record([0.75, 0.5, None, 0.25]),
    "dense": tuning_record([0.7, 0.6, None, 0.1]),
}
OTHER = {"soft_moe": EQUAL["soft_moe"], "dense": tuning_record([0.7, None])}


def test_a_row_describes_how_a_router_was_tuned(study) -> None:
    table = table_of(study(EQUAL), "tuning")
    assert isinstance(table, Table)
    assert [row.cells[0].words for row in table.rows] == ["dense", "soft_moe"]
    cells = dict(zip([column.key for column in table.columns], table.rows[1].cells, strict=True))
    assert [cells[key].value for key in ("trials", "pruned", "failed", "best")] == [4, 1, 1, 0.75]
    assert cells["training"].words == "0123456789"
    assert cells["settings"].words == "router.affinity=cosine train.lr=0.00123"
    assert "not equal" not in table.caption


def record_on_seeds() -> dict[str, Any]:
    """Return the record of 4 settings, 2 of them on 3 seeds; the lucky one is not the best."""
    by_seed: list[list[float | None]] = [[0.6], [0.8, 0.5, None], [0.7, 0.7, 0.76], [None]]
    tried = [
        {
            "settings": {"train.lr": 0.001 * (1 + number)},
            "status": "done" if values[0] else "failed",
            "values": values,
            "trainings": [f"{number}{seed}" * 32 for seed in range(len(values))],
            "flops": 1e9 * len(values),
            "seconds": 36.0 * len(values),
        }
        for number, values in enumerate(by_seed)
    ]
    return {
        "trials": 4,
        "done": 3,
        "pruned": 0,
        "failed": 1,
        "values": [0.6, 0.8, 0.7, None],
        "best": 0.72,
        "seeds": 3,
        "settings": {"train.lr": 0.003},
        "training": "20" * 32,
        "trainings": [training for each in tried for training in each["trainings"]],
        "tried": tried,
        "flops": 8e9,
        "seconds": 288.0,
    }


def cells_of(table: Table, row: int) -> dict[str, Any]:
    keys = [column.key for column in table.columns]
    return dict(zip(keys, table.rows[row].cells, strict=True))


def test_the_best_mean_shows_its_seeds_and_the_cost_of_the_trainings(study) -> None:
    table = table_of(study({name: record_on_seeds() for name in TOP1}), "tuning")
    assert isinstance(table, Table)
    cells = cells_of(table, 1)
    assert [cells[key].value for key in ("trials", "trainings", "failed")] == [4, 8, 1]
    assert (cells["best"].value, cells["best"].n) == (pytest.approx(0.72), 3)
    assert cells["best"].low is not None
    assert cells["best"].trials == ("20" * 32, "21" * 32, "22" * 32)
    assert cells["seeds"].value == 3
    assert (cells["flops"].value, cells["minutes"].value) == (8e9, 4.8)
    assert len(cells["trainings"].trials) == 8
    assert "All together: 16 trainings, 1.6e10 FLOPs, 9.6 min." in table.caption


def test_each_tried_setting_is_listed_with_its_seeds(study) -> None:
    table = table_of(study({name: record_on_seeds() for name in TOP1}), "tuning_trials")
    assert isinstance(table, Table)
    assert len(table.rows) == 8
    lucky, best, failed = (cells_of(table, row) for row in (1, 2, 3))
    assert lucky["first"].value == 0.8
    assert (lucky["mean"].value, lucky["seeds"].value) == (pytest.approx(1.3 / 3), 3)
    assert [each["chosen"].words for each in (lucky, best, failed)] == ["", "best", ""]
    assert (failed["first"].words, failed["mean"].value, failed["status"].words) == (
        "–",
        0,
        "failed",
    )
    assert best["minutes"].value == pytest.approx(1.8)


def test_equal_numbers_of_trials_are_stated_without_a_warning(study) -> None:
    data = study(EQUAL)
    main = table_of(data, "main")
    assert isinstance(main, Table)
    assert (
        "Each router was tuned with 4 trainings of 4 settings, on the validation split."
        in main.caption
    )
    assert not [text for text in remarks(data) if "Tuning" in text]


@pytest.mark.parametrize(
    ("tuned", "warning"),
    [
        (OTHER, WARNING),
        (
            {"dense": EQUAL["dense"]},
            "Tuning was not equal: 4 for dense; 0 for soft_moe (trainings).",
        ),
    ],
)
def test_unequal_numbers_of_trials_give_a_warning_at_the_top_and_in_captions(
    study, tuned, warning
) -> None:
    data = study(tuned)
    assert unequal(data).startswith(warning)
    assert any(text.startswith(warning) for text in remarks(data))
    for name in ("main", "tuning"):
        table = table_of(data, name)
        assert isinstance(table, Table)
        assert warning in table.caption


def test_an_untuned_study_says_nothing_about_tuning(study) -> None:
    data = study({})
    for part in (table_of(data, "tuning"), drawing_of(data)):
        assert isinstance(part, Absent)
        assert part.fine
    main = table_of(data, "main")
    assert isinstance(main, Table)
    assert "tuned" not in main.caption


def test_a_sweep_states_the_value_that_it_was_tuned_at(study) -> None:
    table = table_of(study(EQUAL, sweep={"experts.num_experts": [8, 32]}), "tuning")
    assert isinstance(table, Table)
    assert "Tuned only at experts.num_experts=8" in table.caption


def test_the_curves_show_the_best_so_far_and_the_expected_best(study) -> None:
    part = drawing_of(study(OTHER))
    assert isinstance(part, Drawing)
    drawn, expected = part.figure.axes
    lines = {axes: [line.get_ydata() for line in axes.get_lines()] for axes in (drawn, expected)}
    assert lines[drawn][0] == pytest.approx([70, 70])  # dense
    assert lines[drawn][1] == pytest.approx([75, 75, 75, 75])
    # A failed trial of dense counts as nothing right: (70 + 0) / 2.
    assert lines[expected][0] == pytest.approx([35, 70])
    assert lines[expected][1] == pytest.approx([37.5, (3 * 75 + 2 * 50 + 25) / 6, 68.75, 75])
