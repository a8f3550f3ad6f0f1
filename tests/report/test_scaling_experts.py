"""Cost by number of experts: one line per router and experts, from any sweep that timed them."""

import numpy as np
import pytest
from matplotlib.text import Text

from report.conditions import System
from report.study import load_study
from report.table import Absent
from report.topics import cost
from results import Metric, Subject

WHERE = {"scope": "layer", "batch": 8, "tokens": 196, "dim": 384, "hidden": 1536, "threads": 1}
ROUTER = "softmax_token_choice"


@pytest.fixture
def timed(lab, store):
    """Add a layer to a study: `timed("cp", [4, 16], levels=2)` times each number of experts."""
    here = lab(suites=("throughput",))

    def add(experts, own, numbers, **options):
        described = {
            "router": {"name": ROUTER, "options": {}},
            "experts": {"name": experts, "num_experts": own, "options": options},
            "model": {"name": "vit_tiny_patch16_224"},
            "data": {"name": "digits"},
        }
        layer = store.layers([Subject(f"{experts}-{own}-{options}", described)])[0]
        store.add_layer_to_study(here.study, layer)
        metrics = [
            Metric(name, value * number, where={**WHERE, "shape": shape, "num_experts": number})
            for number in numbers
            for shape in ["A" if number == own else f"A num_experts={number}"]
            for name, value in (
                ("forward_ms", 1.0),
                ("train_ms", 3.0),
                ("forward_overhead", 1.5),
                ("parameter_bytes", 5.0),
                ("kept_bytes", 2.0),
            )
        ]
        machine = here.machine_ids[0]
        store.record_measurement(
            "throughput", {}, "hash", machine, here.code, layer_id=layer, metrics=metrics
        )

    return add


def lines_of(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_a_line_joins_layers_that_differ_only_in_the_number_of_experts(timed, store):
    for number in (16, 4, 64):
        timed("cp", number, [number], levels=1)
    timed("cp", 64, [64, 256], levels=2)
    timed("mlp", 4, [4])
    (drawing,) = cost.draw_scaling(load_study(store))
    forward, train, memory = drawing.figure.axes
    assert lines_of(forward) == [
        ([4, 16, 64], [0.004, 0.016, 0.064]),
        ([64, 256], [0.064, 0.256]),
    ]
    assert lines_of(train)[0] == ([4, 16, 64], pytest.approx([0.012, 0.048, 0.192]))
    assert lines_of(memory)[1] == ([64, 256], [7.0 * 64, 7.0 * 256])
    assert forward.get_xscale() == forward.get_yscale() == "log"
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{ROUTER} experts.name=cp experts.options.levels={levels}" for levels in (1, 2)
    ]
    assert len({line.get_color() for line in forward.lines}) == 2
    assert "8 × 196 × 384, a hidden width of 1536" in drawing.caption


def test_the_sweep_of_a_suite_is_one_line_in_the_style_of_the_router(timed, store):
    timed("mlp", 8, [8, 2, 32])
    study = load_study(store)
    (drawing,) = cost.draw_scaling(study)
    (line,) = drawing.figure.axes[0].lines
    assert list(line.get_xdata()) == [2, 8, 32]
    assert line.get_color() == study.styles[System(ROUTER)].colour


def test_no_text_is_cut_off_or_too_small(timed, store):
    for experts in ("cp", "tr", "mlp"):
        timed(experts, 8, [8, 32, 1024])
    (drawing,) = cost.draw_scaling(load_study(store))
    whole = drawing.figure.bbox.padded(1)
    inked = [text for text in drawing.figure.findobj(Text) if text.get_text().strip()]
    boxes = [text.get_window_extent() for text in inked if text.get_visible()]
    ends = np.array([box.extents for box in boxes])
    assert ends[:, 0].min() >= whole.x0
    assert ends[:, 2].max() <= whole.x1
    assert min(text.get_fontsize() for text in inked) >= 7


def test_a_study_without_a_sweep_does_not_miss_the_figure(timed, store):
    timed("mlp", 8, [8])
    (absent,) = cost.draw_scaling(load_study(store))
    assert isinstance(absent, Absent)
    assert absent.fine


def test_each_panel_of_overheads_shows_one_number_of_experts(timed, store):
    for number in (4, 16):
        timed("cp", number, [number])
        timed("mlp", number, [number])
    drawings = {drawing.name: drawing for drawing in cost.draw(load_study(store))}
    assert set(drawings) == {"overhead--experts.name-cp", "overhead--experts.name-mlp"}
    for drawing in drawings.values():
        titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
        assert [title.split(", ")[-1] for title in titles] == ["4 experts", "16 experts"]
