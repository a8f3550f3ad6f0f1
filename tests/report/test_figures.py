"""The figures: complete, readable in print, reproducible, and true to the numbers."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread
from matplotlib.text import Text

from report.conditions import Entry, System
from report.study import load_study
from report.style import COLUMN, KNOWN, PAGE, Drawing, blank, folded, router_legend
from report.table import parted
from report.topics import accuracy, draw_figures, loads, specialization
from report.topics.accuracy import curve
from report.topics.editing import accuracies
from report.topics.specialization import mosaic, points, shares
from results import Array

NAMES = {
    *("accuracy", "training", "flops", "budgets", "overhead", "load", "load_over_ideal", "entropy"),
    *("class_expert", "class_change", "expert_images", "editing"),
    *("rank_intervals", "win_matrix", "pareto"),
}


@pytest.fixture(scope="module")
def drawings(written):
    parts = draw_figures(written.study)
    return {part.name: part for part in parts if isinstance(part, Drawing)}


def test_every_figure_exists_as_png_and_pdf_and_is_not_blank(written):
    by_kind = {
        kind: {path.stem: path for path in written.paths.figures if path.suffix == kind}
        for kind in (".png", ".pdf")
    }
    assert set(by_kind[".png"]) == set(by_kind[".pdf"]) == NAMES
    for path in by_kind[".png"].values():
        image = imread(io.BytesIO(path.read_bytes()))[..., :3]
        inked = (image < 0.95).any(-1)
        assert inked.mean() > 0.01
        thirds = np.array_split(inked.any(0), 3)
        assert all(third.any() for third in thirds), "a third of the width is empty"
    assert all(path.read_bytes().startswith(b"%PDF") for path in by_kind[".pdf"].values())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_figures_have_the_width_of_a_column_or_page_and_are_readable_at_it(drawings, name):
    figure = drawings[name].figure
    assert figure.get_figwidth() in (COLUMN, PAGE)
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 7


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_label_is_cut_off(drawings, name):
    figure = drawings[name].figure
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    for text in _drawn_texts(figure):
        box = text.get_window_extent()
        assert whole.contains(box.x0, box.y0), text
        assert whole.contains(box.x1, box.y1), text


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_two_labels_overlap(drawings, name):
    figure = drawings[name].figure
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent().shrunk(0.9, 0.8)) for text in
             _drawn_texts(figure)]  # fmt: skip
    for place, (first, box) in enumerate(boxes):
        for second, other in boxes[place + 1 :]:
            assert not box.overlaps(other), (first, second)


def _drawn_texts(figure):
    """Return the texts that are really drawn: not those of ticks beyond the ends of an axis."""
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            beyond |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    texts = set(figure.findobj(Text)) - beyond
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


def test_a_figure_is_bit_identical_each_time(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.82], "dense": [0.7, 0.75]})
    first, second = (next(accuracy.draw(load_study(store))) for _ in range(2))
    for kind in ("png", "pdf", "svg"):
        assert first.saved(kind) == second.saved(kind)


def test_the_accuracy_figure_shows_means_and_intervals_in_the_router_s_colour(written, drawings):
    axes = drawings["accuracy"].figure.axes[0]
    bars = [part for part in axes.containers if isinstance(part, ErrorbarContainer)]
    finished = [s for s in written.study.systems if s.router != "my_gate"]
    assert [bar.lines[0].get_color() for bar in bars] == [
        written.study.styles[system].colour for system in finished
    ]
    dense = bars[0]
    assert dense.lines[0].get_xdata() == pytest.approx([81.0])
    half = 4.302652729911275 / 3**0.5
    (low, _), (high, _) = dense.lines[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((81 - half, 81 + half))
    assert any(text.get_text() == "no finished trial" for text in axes.texts)


def test_each_figure_says_how_many_runs_it_shows(drawings):
    for drawing in drawings.values():
        texts = " ".join(text.get_text() for text in drawing.figure.findobj(Text))
        assert "n =" in drawing.caption or "n=" in texts, drawing.name


def test_a_curve_is_the_mean_over_seeds_at_each_step(written):
    points = curve(written.study, Entry(System("dense")))
    assert list(points["n"]) == [3] * 11
    assert list(points["flops"]) == pytest.approx([4e11 * tenth for tenth in range(11)])
    last = [100 * (0.1 + (top1 - 0.1) * (1 - 2 ** (-10 / 1.5))) for top1 in (0.8, 0.81, 0.82)]
    assert points["mean"].iloc[-1] == pytest.approx(np.mean(last))
    assert (points["low"].iloc[-1], points["high"].iloc[-1]) == pytest.approx((last[0], last[2]))


@pytest.mark.parametrize(("evaluations", "panels"), [(11, 2), (2, 1)])
def test_the_end_of_training_is_enlarged_if_there_is_something_to_see(
    lab, store, evaluations, panels
):
    lab(suites=("accuracy",), evaluations=evaluations).study_of({"soft_moe": [0.8, 0.9]})
    drawing = next(accuracy.draw_training(load_study(store)))
    assert len(drawing.figure.axes) == panels
    assert ("enlarged" in drawing.caption) is (panels == 2)


def test_captions_have_a_summary_of_three_sentences_and_separate_details(written, drawings):
    for part in (*written.tables.values(), *drawings.values()):
        summary, details = parted(part.caption)
        sentences = re.split(r"(?<=[.!?]) (?=[^a-z])", summary)
        assert 1 <= len(sentences) <= 3, (part.name, sentences)
        assert "\n" not in details


def test_loads_are_sorted_within_a_run_before_averaging(written):
    layers = loads.loads_over_mean(written.study, Entry(System("random")))
    assert [rows.shape for rows in layers] == [(3, 8), (3, 8)]
    for rows in layers:
        assert rows.mean(1) == pytest.approx([1, 1, 1])
        assert (np.diff(rows, axis=1) <= 0).all()


def test_loads_over_ideal_show_median_95th_percentile_and_maximum(lab, store):
    study = lab(suites=("accuracy",))
    study.study_of({"soft_moe": [0.8, 0.9]})
    by_seed = [([9, 1, 2, 0], [4, 4, 4, 4]), ([2, 2, 5, 3], [0, 0, 0, 12])]
    for seed, layers in enumerate(by_seed):
        store.record_measurement(
            "balance", {}, "balance", study.machine_ids[0], study.code,
            attempt_id=store.done_attempt(f"tiny-soft_moe-{seed}-{{}}").id,
            arrays=[
                Array("load", np.array(load), layer, split="test")
                for layer, load in enumerate(layers)
            ],
        )  # fmt: skip
    drawing = next(loads.draw_over_ideal(load_study(store)))
    (axes,) = (axes for axes in drawing.figure.axes if axes.lines)
    ranked = np.array([[3, 2 / 3, 1 / 3, 0], [1, 1, 1, 1], [5 / 3, 1, 2 / 3, 2 / 3], [4, 0, 0, 0]])
    assert axes.lines[0].get_ydata() == pytest.approx(np.median(ranked, axis=0))
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices
    assert max(edges[:, 1]) == pytest.approx(np.percentile(ranked[:, 0], 95))
    assert [text.get_text() for text in axes.texts] == ["max 4.00"]


def test_class_shares_sum_to_one_and_are_ordered_by_class():
    table = np.array([[0.0, 3.0, 1.0], [8.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert shares(table).tolist() == [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]]


def test_experts_of_different_sizes_are_ordered_by_size_under_their_parameters(lab, store):
    study, where = lab(suites=("accuracy",)), {"of": "combine", "kind": "soft"}
    study.study_of({"soft_moe": [0.8]})
    store.record_measurement(
        "entropy", {}, "entropy", study.machine_ids[0], study.code,
        attempt_id=store.done_attempt("tiny-soft_moe-0-{}").id,
        arrays=[
            Array("class_expert", np.array([[0.0, 1, 3], [4, 4, 0]]), 0, split="test", where=where),
            Array("expert_sizes", np.array([2000, 50, 400]), 0, split="test"),
        ],
    )  # fmt: skip
    drawing = next(specialization.draw_served(load_study(store)))
    (axes,) = [axes for axes in drawing.figure.axes if axes.images]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "400", "2,000"]
    assert axes.images[0].get_array().tolist() == [[0.25, 0.75, 0], [0.5, 0, 0.5]]
    assert "labelled by their parameters" in drawing.caption


@pytest.mark.parametrize("name", ["class_expert", "class_change"])
def test_class_names_are_shown_beside_each_row_of_panels(drawings, name):
    maps = [axes for axes in drawings[name].figure.axes if axes.images]
    ticks = [[label.get_text() for label in axes.get_yticklabels()] for axes in maps]
    names = [*(f"class {index}" for index in range(9)), "a class of …"]
    assert ticks == [names if place % 4 == 0 else [] for place in range(len(maps))]


@pytest.mark.parametrize(("classes", "named"), [(20, True), (21, False)])
def test_many_classes_are_numbered(lab, store, classes, named):
    study = lab(suites=("accuracy",))
    study.study_of({"soft_moe": [0.8]})
    store.record_measurement(
        "specialization", {}, "specialization", study.machine_ids[0], study.code,
        attempt_id=store.done_attempt("tiny-soft_moe-0-{}").id,
        arrays=[
            Array("class_names", np.array([f"c{index}" for index in range(classes)])),
            Array("accuracy_change", np.ones((3, classes)), 0, split="test"),
        ],
    )  # fmt: skip
    drawing = next(specialization.draw_change(load_study(store)))
    texts = {text.get_text() for text in _drawn_texts(drawing.figure)}
    assert ("c19" in texts) is named
    assert ("class" in texts) is not named


def test_the_colour_scale_of_changes_is_centred_on_zero(drawings):
    images = [axes.images[0] for axes in drawings["class_change"].figure.axes if axes.images]
    largest = max(abs(image.get_array()).max() for image in images)
    assert {(image.norm.vmin, image.norm.vmax) for image in images} == {(-largest, largest)}


def test_changes_are_in_points_ordered_by_class_and_without_omitted_experts():
    changes = np.array(
        [[0.0, -0.5, 0.0], [0.0, 0.5, 0.0], [np.nan] * 3, [0.25, -0.5, np.nan], [0, 0.75, 0]]
    )
    assert points(changes).tolist() == [[25, 0, 0, 0], [-50, 75, 50, -50], [0, 0, 0, 0]]


def test_thumbnails_are_separated_by_white_gaps():
    thumbnails = np.arange(24, dtype=np.uint8).reshape(2, 2, 1, 2, 3)
    picture = mosaic(thumbnails, np.array([[True, True], [False, True]]))
    assert picture.shape == (6, 8, 3)
    assert picture[..., 0].tolist() == [
        [0, 1, 2, 255, 6, 7, 8, 255],
        [3, 4, 5, 255, 9, 10, 11, 255],
        [255] * 8,
        [255, 255, 255, 255, 18, 19, 20, 255],
        [255, 255, 255, 255, 21, 22, 23, 255],
        [255] * 8,
    ]


def test_thumbnails_show_three_channels_or_the_mean_of_all():
    colours = np.zeros((1, 1, 3, 2, 2), dtype=np.uint8)
    colours[0, 0, 1] = 90
    assert mosaic(colours, np.array([[True]]))[0, 0].tolist() == [0, 90, 0]
    two = mosaic(colours[:, :, :2], np.array([[True]]))
    assert two[0, 0].tolist() == [45, 45, 45]


def test_rows_of_images_are_labelled_with_their_expert_numbers(drawings):
    axes = drawings["expert_images"].figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["5", "0", "2"]


def test_many_routers_have_several_figures_of_images(lab, store, monkeypatch):
    monkeypatch.setattr(specialization, "ROUTERS", 2)
    lab().study_of({name: [0.8] for name in ("soft_moe", "random", "my_gate")})
    drawn = list(specialization.draw_images(load_study(store)))
    assert [part.name for part in drawn] == ["expert_images", "expert_images--2"]
    assert [len(part.figure.axes) for part in drawn] == [2, 1]


def test_subgroups_are_drawn_before_and_after_editing(written, drawings):
    values = accuracies(written.study, Entry(System("random")))
    assert values["before"] == pytest.approx(np.array([[95, 10 + s, 20, 90] for s in range(3)]))
    assert values["after"] == pytest.approx(np.full((3, 4), 70))
    assert set(accuracies(written.study, Entry(System("dense")))) == {"before"}
    assert accuracies(written.study, Entry(System("my_gate"))) == {}
    axes = drawings["editing"].figure.axes
    panels = {place.get_title("left").split(" (")[0]: place for place in axes}
    assert "my_gate" not in panels
    hollow, filled = panels["random"].lines[-2:]
    assert list(hollow.get_xdata()) == pytest.approx([95, 11, 20, 90])
    assert list(filled.get_xdata()) == pytest.approx([70] * 4)
    assert hollow.get_markerfacecolor() != filled.get_markerfacecolor()
    (alone,) = panels["dense"].lines
    assert list(alone.get_xdata()) == pytest.approx([95, 11, 20, 90])


def test_a_sweep_has_a_figure_for_each_condition(lab, store):
    lab().study_of({"soft_moe": [0.8]}, [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}])
    names = {part.name for part in draw_figures(load_study(store)) if isinstance(part, Drawing)}
    assert {"accuracy", "load--router.capacity-factor-1.0", "load--router.capacity-factor-2.0"} <= (
        names
    )


def test_a_figure_missing_under_every_condition_is_reported_once(lab, store):
    conditions = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]}, conditions)
    parts = list(draw_figures(load_study(store)))
    absent = [(part.name, part.title) for part in parts if not isinstance(part, Drawing)]
    assert ("class_change", specialization.draw_change.title) in absent
    assert not [name for name, _ in absent if "--" in name]


def test_names_are_broken_only_after_underscores():
    assert folded("softmax_token_choice") == "softmax_token_choice"
    assert folded("sparsity_constrained_expert_choice") == "sparsity_constrained_\nexpert_choice"
    assert folded("averyveryverylongnamewithoutanybreak") == "averyveryverylongnamewithoutanybreak"


def test_a_legend_is_ordered_line_by_line():
    figure, names = blank(PAGE, 2), list(KNOWN)[:5]
    router_legend(figure, {name: KNOWN[name] for name in names}, 3)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = {text.get_text(): text.get_window_extent() for text in legend.get_texts()}
    assert sorted(boxes, key=lambda name: (-round(boxes[name].y0), boxes[name].x0)) == names
