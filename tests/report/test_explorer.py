"""The routing explorer: its data, and its section in a real browser if one is installed."""

from __future__ import annotations

import base64
import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from report.study import load_study
from report.table import Absent
from report.topics.traces import PALETTE, colours, explorer, top_classes, within
from report.write import write_report
from results import Array, Metric, open_store
from tests.report.conftest import router_card

HOSTILE = "<script>alert(1)</script>"
LABELS = np.array([0, 0, 1, 1])
EXPERTS = np.array([
    [[0, 1], [2, -1]],
    [[0, 0], [0, 0]],
    [[2, 2], [-1, -1]],
    [[3, 3], [3, 3]],
])  # fmt: skip
SHARES = np.array([
    [[255, 204], [102, 0]],
    [[255, 153], [255, 255]],
    [[255, 255], [0, 0]],
    [[102, 255], [255, 255]],
])  # fmt: skip
"""Shares of four images of 2 x 2 patches, at the end of training, in layer 0."""


def arrays(number=4, names=("left", HOSTILE), layers=(0, 1), steps=(None, 0), seed=0):
    """Return what the suite stores for a trial.

    Every layer, step and seed beyond the first moves the patches to the next expert.
    """
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 1, 8, 8)
    whole = {
        "traced_images": images,
        "traced_labels": LABELS,
        "traced_index": np.arange(4),
        "class_names": np.array(names),
    }
    made = [Array(name, values, split="test") for name, values in whole.items()]
    for step in steps:
        for layer in layers:
            moved = EXPERTS + layer + (step is not None) + seed
            experts = np.where(EXPERTS >= 0, moved % number, -1)
            weights = [
                [SHARES[image][experts[image] == expert].sum() for expert in range(number)]
                for image in range(len(LABELS))
            ]
            for name, values in (
                ("traced_experts", experts.astype(np.int16)),
                ("traced_shares", SHARES.astype(np.uint8)),
                ("traced_weights", np.array(weights, dtype=np.float32)),
            ):
                made.append(Array(name, values, layer, step, "test"))
    return made


def record(store, lab, router, seed=0, arrays=(), settings=None, **result):
    """Record a trial that the suite traces measured or skipped."""
    attempt = store.begin_attempt(
        lab.waiting(router, seed, settings), lab.machine_ids[0], lab.code, "logs/a.log"
    )
    store.finish_attempt(attempt, "done", flops=1e12, steps=40, seconds=1.0)
    store.record_measurement(
        *("traces", {}, "traces", lab.machine_ids[0], lab.code),
        attempt_id=attempt,
        arrays=arrays,
        **(result or {"metrics": [Metric("top_share", 0.5, split="test")]}),
    )


def study_of_two(made, store):
    """A study of two routers, one of them with a second seed, and a dense model."""
    # The later seed is recorded first.
    record(store, made, "soft_moe", 1, arrays(seed=1))
    record(store, made, "soft_moe", 0, arrays())
    record(store, made, HOSTILE, 0, arrays(steps=(None, 0, 10), number=12))
    dense = {"status": "skipped", "error": "the model has no MoE layer"}
    record(store, made, "dense", **dense)
    return made


@pytest.fixture
def traced(lab, store):
    return study_of_two(lab(suites=("accuracy", "traces")), store)


def decoded(text, dtype=np.int8):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_data_come_from_the_first_seed(traced, store):
    data = explorer(load_study(store, traced.name)).data
    by_name = {router["name"]: router for router in data["routers"]}
    assert by_name.keys() == {"soft_moe", HOSTILE}
    soft = by_name["soft_moe"]
    assert soft["seed"] == 0
    assert [layer["layer"] for layer in soft["layers"]] == [0, 1]
    start, end = soft["layers"][0]["maps"]
    assert (start["step"], end["step"]) == (0, None)
    assert (end["number"], end["rows"], end["columns"]) == (4, 2, 2)
    assert (end["low"], end["high"]) == (102, 255)
    assert decoded(end["experts"]).tolist() == EXPERTS.ravel().tolist()
    assert decoded(end["shares"], np.uint8).tolist() == SHARES.ravel().tolist()
    moved = np.where(EXPERTS >= 0, (EXPERTS + 1) % 4, -1)
    assert decoded(start["experts"]).tolist() == moved.ravel().tolist()
    # Expert 0 takes 255 of one image of class 0 and all of the other; expert 2 some of each class.
    assert end["classes"][0] == [(0, 1.0)]
    assert end["classes"][2] == [(1, round(510 / 612, 3)), (0, round(102 / 612, 3))]


def test_routers_that_saw_the_same_images_share_them(traced, store):
    data = explorer(load_study(store, traced.name)).data
    (sample,) = data["samples"]
    assert {router["sample"] for router in data["routers"]} == {0}
    assert sample["labels"] == LABELS.tolist()
    assert sample["classes"] == {"0": "left", "1": HOSTILE}
    with Image.open(io.BytesIO(base64.b64decode(sample["images"][3]))) as image:
        assert np.asarray(image).tolist() == np.arange(192, 256).reshape(8, 8).tolist()


def test_routers_with_other_data_have_their_own_images(lab, store):
    made = lab(suites=("traces",))
    record(store, made, "soft_moe", 0, arrays())
    record(store, made, "my_gate", 0, arrays(names=("one", "other")))
    data = explorer(load_study(store)).data
    samples = {router["name"]: data["samples"][router["sample"]] for router in data["routers"]}
    assert samples["soft_moe"]["classes"] == {"0": "left", "1": HOSTILE}
    assert samples["my_gate"]["classes"] == {"0": "one", "1": "other"}


def test_the_first_two_routers_shown_are_of_different_families_and_no_baselines(lab, store):
    made = lab(suites=("traces",))
    for router in ("random", "softmax_token_choice", "my_gate", "soft_moe"):
        store.components([router_card(router)])
        record(store, made, router, 0, arrays())
    data = explorer(load_study(store)).data
    names = [router["name"] for router in data["routers"]]
    assert names[-1] == "random"
    assert [names[number] for number in data["first"]] == ["softmax_token_choice", "soft_moe"]


def test_many_experts_are_stored_as_two_byte_numbers(lab, store):
    made = lab(suites=("traces",))
    record(store, made, "soft_moe", 0, arrays(number=200, seed=196))
    (router,) = explorer(load_study(store)).data["routers"]
    end = router["layers"][0]["maps"][-1]
    expected = np.where(EXPERTS >= 0, (EXPERTS + 196) % 200, -1)
    assert decoded(end["experts"], "<i2").tolist() == expected.ravel().tolist()


def test_each_condition_of_a_router_can_be_chosen(lab, store):
    made = lab(suites=("traces",))
    for rate in (0.1, 0.2):
        record(store, made, "soft_moe", 0, arrays(), {"noise": rate})
    names = [router["name"] for router in explorer(load_study(store)).data["routers"]]
    assert len(names) == len(set(names)) == 2
    assert all(name.startswith("soft_moe · ") for name in names)


@pytest.mark.parametrize(
    ("suites", "fine", "why"),
    [
        (("accuracy",), True, "suite traces was not asked for"),
        (("accuracy", "traces"), False, "suite traces: the model has no MoE layer"),
    ],
)
def test_a_missing_explorer_is_named_if_it_was_requested(lab, store, tmp_path, suites, fine, why):
    made = lab(suites=suites)
    record(store, made, "dense", status="skipped", error="the model has no MoE layer")
    lacking = explorer(load_study(store))
    assert lacking == Absent("explorer", "Where each patch went", why, fine)
    report = write_report(store, made.name, tmp_path / "report")
    page = report.index_html.read_text(encoding="utf-8")
    assert ("Where each patch went" in page) is not fine
    assert 'id="explorer"' not in page
    assert ("Where each patch went" in report.missing) is not fine


def test_data_beyond_the_size_limit_are_left_out_snapshots_first():
    def router(steps):
        maps = [{"step": step, "experts": "x" * 1000} for step in steps]
        return {"name": "any", "layers": [{"layer": 0, "maps": maps}]}

    routers = [router((0, 10, None))] * 3
    assert within(20000, routers) == (routers, "")
    ends, sentence = within(5000, routers)
    assert ends == [router((None,))] * 3
    assert sentence == "Snapshots before the end are left out, to keep this page small."
    some, sentence = within(2500, routers)
    assert some == ends[:2]
    assert sentence.endswith("So are 1 of 3 routers and conditions.")
    assert within(1, routers)[0] == ends[:1]


def test_the_classes_of_an_expert_match_a_count_by_hand():
    """Classes 0 and 2 have two images each, class 1 one; expert 1 takes nothing."""
    weights = np.array([[1, 0, 2], [2, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    got = list(top_classes(weights, np.array([0, 0, 1, 2, 2])))
    assert got == [[(0, 0.75), (1, 0.25)], [], [(0, 0.75), (2, 0.25)]]


BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Colour-blindness matrices of Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB."""


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_of_ten_experts_are_distinct_for_colour_blind_readers(blindness):
    rgb = np.array(colours(len(PALETTE))) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[blindness]).T, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = seen @ np.array(to_xyz).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
    nearest = min(np.linalg.norm(one - other) for one, other in combinations(lab, 2))
    assert nearest > 22, "CIE 1976; 2.3 is just noticeable"


def test_more_than_ten_experts_still_have_distinct_colours():
    many = colours(64)
    assert len(set(many)) == 64
    assert all(0 <= part <= 255 for colour in many for part in colour)


PIXELS = """(canvas) => {
    const copy = Object.assign(document.createElement("canvas"),
        { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    return Array.from(context.getImageData(0, 0, copy.width, copy.height).data);
}"""


def patches_of(pane):
    """Return the pixels of all overlays, (images, rows · columns, 4)."""
    return np.array([each.evaluate(PIXELS) for each in pane.locator(".patches").all()]).reshape(
        -1, 4, 4
    )


def choose(pane, name):
    pane.locator("select").select_option(label=name)


@pytest.fixture(scope="module")
def address(make_lab, tmp_path_factory):
    """The address of the study's page."""
    folder = tmp_path_factory.mktemp("explorer")
    with open_store(folder / "results.db") as store:
        made = study_of_two(make_lab(store, suites=("accuracy", "traces")), store)
        return write_report(store, made.name, folder / "report").index_html


@pytest.fixture
def page(browse, address):
    """Open the page at a width."""
    return lambda width: browse(address, width)


@pytest.mark.parametrize("width", [1280, 420])
def test_patches_have_the_colours_of_their_experts(page, width):
    tab = page(width)
    left, right = tab.locator("#explorer .pane").all()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    choose(left, "soft_moe")
    choose(right, HOSTILE)
    for pane, number, layer in ((left, 4, 0), (right, 12, 0), (left, 4, 1)):
        tab.locator("#explorer [name=layer]").select_option(str(layer))
        expected = np.where(EXPERTS >= 0, (EXPERTS + layer) % number, -1).reshape(4, 4)
        shown = patches_of(pane)
        palette = np.array(colours(number))
        for image, place in np.ndindex(4, 4):
            *colour, opacity = shown[image, place]
            expert, share = expected[image, place], SHARES.reshape(4, 4)[image, place]
            if expert < 0:
                assert opacity == 0
                continue
            # A canvas stores colours times opacity, as integers.
            assert np.abs(np.array(colour) - palette[expert]).max() <= 2
            assert abs(opacity - (110 + 95 * (share - 102) / 153)) <= 1


@pytest.mark.parametrize("width", [1280, 420])
def test_selecting_an_expert_shows_its_patches_and_classes(page, width):
    tab = page(width)
    left, right = tab.locator("#explorer .pane").all()
    choose(left, "soft_moe")
    assert left.locator(".experts button").all_inner_texts() == [
        *("0\n31\xa0%", "1\n6\xa0%", "2\n19\xa0%", "3\n25\xa0%", "none\n19\xa0%")
    ]
    overview = left.locator(".chosen-expert").inner_text()
    assert overview.endswith(
        "expert’s weight: 0\xa0→\xa0left\xa0(100\xa0%), 1\xa0→\xa0left\xa0(100\xa0%), "
        f"2\xa0→\xa0{HOSTILE}\xa0(83\xa0%), 3\xa0→\xa0{HOSTILE}\xa0(100\xa0%)"
    )
    left.locator(".experts button").nth(2).click()
    strong = patches_of(left)[..., 3] > 50
    assert (strong == (EXPERTS == 2).reshape(4, 4)).all()
    text = left.locator(".chosen-expert").inner_text()
    assert "Expert 2 has the largest share of 3 of these patches." in text
    assert f"{HOSTILE}\xa0(83\xa0%), left\xa0(17\xa0%)" in text
    crops = left.locator(".crop")
    titles = [crop.get_attribute("title") for crop in crops.all()]
    assert titles == [
        f"{HOSTILE}, row 1, column 1: expert 2, 100\xa0%",
        f"{HOSTILE}, row 1, column 2: expert 2, 100\xa0%",
        "left, row 2, column 1: expert 2, 40\xa0%",
    ]
    left.locator(".experts button").nth(2).click()
    assert (patches_of(left)[..., 3] > 50).sum() == (EXPERTS >= 0).sum()

    overlay = left.locator(".patches").nth(0)
    box = overlay.bounding_box()
    at = {"x": 0.75 * box["width"], "y": 0.25 * box["height"]}
    overlay.hover(position=at)
    assert overlay.get_attribute("title") == "left, row 1, column 2: expert 1, 80\xa0%"
    overlay.click(position=at)
    assert left.locator(".experts button[aria-pressed=true]").get_attribute("value") == "1"
    assert "row 1, column 2" in left.locator(".chosen-expert").inner_text()
    assert right.locator(".experts button[aria-pressed=true]").count() == 0
    overlay.click(position={"x": 0.75 * box["width"], "y": 0.75 * box["height"]})
    assert "1 of these" not in left.locator(".chosen-expert").inner_text()
    assert "3 of these patches got nothing" in left.locator(".chosen-expert").inner_text()


def test_the_controls_select_time_class_and_bare_images(page):
    tab = page(1280)
    left, right = tab.locator("#explorer .pane").all()
    choose(left, "soft_moe")
    choose(right, HOSTILE)
    times = tab.locator("#explorer [name=time]")
    assert times.locator("option").all_inner_texts() == ["end of training", "start", "snapshot 1"]
    times.select_option(label="start")
    assert "step 0" in left.locator(".note").inner_text()
    first = patches_of(left)[0, 0, :3]
    assert np.abs(first - np.array(colours(4))[1]).max() <= 2, "at the start one expert further on"
    times.select_option(label="snapshot 1")
    assert "step 10" in right.locator(".note").inner_text()
    assert "end of training" in left.locator(".note").inner_text(), "it has no more snapshots"
    classes = tab.locator("#explorer [name=class]")
    assert classes.locator("option").all_inner_texts() == ["all", "left", HOSTILE]
    classes.select_option(label=HOSTILE)
    assert left.locator("figcaption").all_inner_texts() == [HOSTILE]
    assert left.locator(".image").count() == 2
    tab.locator("#explorer [name=bare]").check()
    assert left.locator(".patches >> visible=true").count() == 0
    assert left.locator(".image img >> visible=true").count() == 2
    tab.locator("#explorer [name=bare]").uncheck()
    assert left.locator(".patches >> visible=true").count() == 2


def test_names_of_routers_and_classes_are_inserted_as_text(page):
    tab = page(1280)
    names = tab.locator("#explorer .pane select").first.locator("option").all_inner_texts()
    assert HOSTILE in names
    assert HOSTILE in tab.locator("#explorer figcaption").all_inner_texts()
    assert tab.locator("#explorer script").count() == 1, "the data alone"
