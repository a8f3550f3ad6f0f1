"""Parts of a preset: slices with their own settings, routers and parents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.presets import Preset, load_preset
from bench.config.schema import TrialSpec
from bench.plan.expand import trial_specs
from bench.plan.plan import labels, make_request
from routers.errors import RequestError

ATTENTIVE = "softmax_token_choice"
PLAIN = "soft_moe"
LOSSES: dict[str, Any] = {"sweep": {"train.losses": ({}, {"importance": 0.6})}}
DISTILLED = {
    "routers": [PLAIN],
    "set": {"train.losses": {}},
    "parent": {"router": ATTENTIVE, "transform": "distill"},
}


@pytest.fixture
def preset() -> Callable[..., Preset]:
    """Make the preset smoke with these parts: `preset({"routers": […], "set": {…}}, …)`."""

    def make(*parts: dict[str, Any], **fields: Any) -> Preset:
        smoke = load_preset("smoke").model_dump()
        return Preset.model_validate(
            {**smoke, "routers": ["dense", "random"], **fields, "parts": parts}
        )

    return make


def trials(preset: Preset, **asked: Any) -> list[TrialSpec]:
    return trial_specs(make_request(preset, **asked).preset)


def names(specs: list[TrialSpec]) -> list[str]:
    return [spec.router.name for spec in specs]


def test_a_part_is_the_preset_with_its_own_settings_and_routers(preset) -> None:
    asked = preset(
        {"routers": ["soft_moe"], "set": {"experts.num_experts": 2, "router.num_slots": 3}},
        {"set": {"model.layers": "all"}},
        {},
    )
    soft, *others = trials(asked)
    assert (soft.experts.num_experts, soft.router.options["num_slots"]) == (2, 3)
    assert soft.model.layers == "every2"
    assert names(others) == ["dense", "random"] * 2
    assert [spec.model.layers for spec in others] == ["all"] * 2 + ["every2"] * 2
    assert {spec.experts.num_experts for spec in others if spec.router.name == "random"} == {4}


def test_a_single_part_without_settings_equals_the_preset(preset) -> None:
    assert trials(preset({})) == trials(preset())


def test_all_parts_come_before_the_next_condition_and_the_next_seed(preset) -> None:
    specs = trials(
        preset({"routers": ["random"]}, {"routers": ["soft_moe"]}, sweep={"train.lr": (1, 2)}),
        seeds=2,
    )
    order = [(spec.seed, spec.train.lr, spec.router.name) for spec in specs]
    once = [(lr, name) for lr in (1, 2) for name in ("random", "soft_moe")]
    assert order == [(seed, *each) for seed in (0, 1) for each in once]


def test_a_part_overrides_the_preset_and_its_sweep_and_the_command_overrides_both(preset) -> None:
    part = {"routers": ["random"], "set": {"train.lr": 5.0, "train.losses": {}}}

    def rates(**asked: Any) -> list[float]:
        return [spec.train.lr for spec in trials(preset(part, sweep={"train.lr": (1, 2)}), **asked)]

    assert rates() == [5]
    assert rates(settings={"train.lr": 7}) == [7]
    assert rates(sweep={"train.lr": (8, 9)}) == [8, 9]
    (weighed,) = trials(preset(part), settings={"train.losses.importance": 0.5})
    assert weighed.train.losses == {"importance": 0.5}
    swept = trials(preset(part), sweep={"train.losses.importance": (0.5, 0.6)})
    assert [spec.train.losses["importance"] for spec in swept] == [0.5, 0.6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"set": {"train.lrr": 1}}, "no setting 'train.lrr'; did you mean 'train.lr'"),
        ({"set": {"train.lr": "fast"}}, "parts.1.set: train.lr = 'fast'"),
        ({"set": {"parts": []}}, "there is no setting 'parts'"),
        ({"set": {"router.topk": 1}}, "did you mean 'router.top_k'"),
        ({"routers": []}, "no router is named"),
        ({"routers": ["softmoe"]}, "did you mean 'soft_moe'"),
        ({"parent": {"router": "randon", "transform": "distill"}}, "'randon'.*mean 'random'"),
        ({"parent": {"router": "random", "transform": "distil"}}, "no transform.*'distill'"),
    ],
)
def test_an_impossible_part_is_refused(preset, fields, message) -> None:
    with pytest.raises(RequestError, match=message):
        trials(preset({}, fields))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{router: [dense]}", r"no setting 'parts\.0\.router'; did you mean 'parts\.0\.routers'"),
        ("{parent: {router: dense}}", r"'parts\.0\.parent\.transform' is missing"),
        (
            "{parent: {router: a, transform: b, c: d}}",
            r"no setting 'parts\.0\.parent\.c'; available: parts\.0\.parent\.router, parts",
        ),
        ("{routers: dense}", r"parts\.0\.routers: routers = 'dense' is not a list"),
    ],
)
def test_an_error_in_a_part_names_its_place_in_the_file(tmp_path: Path, text, message) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"description: mine\nparts:\n  - {text}\n")
    with pytest.raises(RequestError, match=message):
        load_preset(str(file))


def test_chosen_routers_are_taken_from_the_parts_that_have_them(preset) -> None:
    few = {"experts.num_experts": 2}
    asked = preset({"routers": ["random", "soft_moe"]}, {"routers": ["soft_moe"], "set": few}, {})
    assert names(trials(asked, routers=["soft_moe"])) == ["soft_moe", "soft_moe"]
    assert names(trials(asked, routers=["random"])) == ["random"]  # the same trial in two parts
    assert names(trials(asked, routers=["hash", "dense"])) == ["hash", "dense"]
    assert names(trials(asked, routers=["all"]))[:3] == ["random", "soft_moe", "soft_moe"]
    assert len(trials(asked, routers=["all"])) > 10


def test_a_router_that_no_part_has_is_refused_with_the_nearest_name(preset) -> None:
    asked = preset({"routers": ["random"]}, {"routers": ["soft_moe"]})
    with pytest.raises(
        RequestError, match=r"no part of preset 'smoke' has router 'randm'.*'random"
    ):
        trials(asked, routers=["randm"])
    with pytest.raises(RequestError, match="no part"):
        trials(asked, routers=["dense"])


def test_a_setting_that_no_router_of_any_part_has_is_refused(preset) -> None:
    asked = preset({"routers": ["random"]}, {"routers": ["soft_moe"]})
    assert trials(asked, settings={"router.num_slots": 2})[1].router.options["num_slots"] == 2
    with pytest.raises(RequestError, match="none of the chosen routers"):
        trials(asked, routers=["random"], settings={"router.num_slots": 2})


def test_a_derived_trial_starts_from_a_parent_of_its_condition_and_seed(preset) -> None:
    specs = trials(preset({"routers": [ATTENTIVE]}, DISTILLED, **LOSSES), seeds=2)
    assert names(specs) == [ATTENTIVE, PLAIN] * 4
    for parent, child in zip(specs[::2], specs[1::2], strict=True):
        assert (child.parent, child.transform) == (parent, "distill")
        assert child.train.losses == {}
        assert parent.parent is None
    assert [spec.seed for spec in specs] == [0] * 4 + [1] * 4


def test_a_parent_may_belong_to_the_same_part_or_be_derived_itself(preset) -> None:
    tuned = {"router": "random", "transform": "fine_tune"}
    more = {"routers": ["hash"], "parent": {"router": "dense", "transform": "fine_tune"}}
    random, dense, hashed = trials(preset({"routers": ["random", "dense"], "parent": tuned}, more))
    assert random.parent is None
    assert dense.parent == random
    assert hashed.parent == dense


def test_a_parent_is_trained_even_if_not_requested(preset) -> None:
    asked = preset({"routers": ["random", ATTENTIVE]}, DISTILLED, {"routers": ["hash"]})
    assert names(trials(asked, routers=[PLAIN])) == [ATTENTIVE, PLAIN]
    assert names(trials(asked, routers=["random"])) == ["random"]


def test_a_trial_has_a_parent_and_a_transform_or_neither(preset) -> None:
    parent, child = trials(preset({"routers": [ATTENTIVE]}, DISTILLED))
    fields = child.model_dump(mode="json")
    assert TrialSpec.model_validate(fields) == child
    del fields["transform"]
    with pytest.raises(ValueError, match="a parent and a transform"):
        TrialSpec.model_validate(fields)
    known = {"router", "experts", "model", "data", "train", "compute", "seed"}
    assert parent.model_dump(mode="json").keys() == known
    assert child.condition() == child.with_seed(3).condition()
    assert child.with_seed(3).parent == parent.with_seed(3)


def test_a_label_says_what_a_derived_trial_started_from(preset) -> None:
    specs = trials(preset({"routers": [ATTENTIVE, PLAIN]}, DISTILLED, **LOSSES), seeds=2)
    assert labels(specs)[:6] == [
        f"{ATTENTIVE} train.losses.importance=unset",
        f"{PLAIN} train.losses.importance=unset",
        f"{PLAIN} transform=distill parent={ATTENTIVE} parent.train.losses.importance=unset",
        f"{ATTENTIVE} train.losses.importance=0.6",
        f"{PLAIN} train.losses.importance=0.6",
        f"{PLAIN} transform=distill parent={ATTENTIVE} parent.train.losses.importance=0.6",
    ]


def test_a_part_can_sweep_over_its_own_values(preset) -> None:
    asked = preset(
        {"sweep": {"experts.num_experts": [2, 8], "model.layers": ["all", "every2"]}},
        {"routers": ["soft_moe"], "set": {"experts.num_experts": 2}},
    )

    def seen(specs: list[TrialSpec]) -> list[tuple[str, int, Any]]:
        return [(s.router.name, s.experts.num_experts, s.model.layers) for s in specs]

    combined = [(2, "all"), (2, "every2"), (8, "all"), (8, "every2")]
    # A dense model has no experts, so it is trained only once for each choice of layers.
    swept = [("random", *each) for each in combined]
    dense = [("dense", 8, layers) for layers in ("all", "every2")]
    first, second = (list(pair) for pair in zip(dense, swept[:2], strict=True))
    assert seen(trials(asked)) == [*first, *second, *swept[2:], ("soft_moe", 2, "every2")]
    # Values from the command replace those of a part, swept or not.
    one = trials(asked, routers=["random"], settings={"experts.num_experts": 3})
    assert seen(one) == [("random", 3, "all"), ("random", 3, "every2")]
    other = trials(asked, routers=["random"], sweep={"model.layers": ("last2",)})
    assert seen(other) == [("random", 2, "last2"), ("random", 8, "last2")]


def test_a_wrong_path_or_value_in_a_parts_sweep_is_refused(preset) -> None:
    for sweep in ({"experts.num_expert": [2]}, {"experts.num_experts": [0]}):
        with pytest.raises(RequestError, match=r"num_expert"):
            trials(preset({"sweep": sweep}))


def test_a_part_with_a_sweep_cannot_be_a_parent(preset) -> None:
    swept = {"routers": ["random"], "sweep": {"experts.num_experts": [2, 4]}}
    child = {"routers": ["soft_moe"], "parent": {"router": "random", "transform": "fine_tune"}}
    with pytest.raises(RequestError, match="no single trial of router 'random'"):
        trials(preset(swept, child))
    single = {"routers": ["random"], "set": {"experts.num_experts": 2}}
    last = trials(preset(swept, single, child))[-1]
    assert last.parent is not None
    assert last.parent.experts.num_experts == 2


def test_a_part_that_sweeps_over_children_does_not_hide_their_parent_from_later_parts(
    preset,
) -> None:
    parent = {"router": "soft_moe", "transform": "prune_random"}
    swept = {"routers": ["soft_moe"], "sweep": {"experts.num_experts": [2, 1]}, "parent": parent}
    other = swept | {"parent": parent | {"transform": "prune_gate_mass"}}
    first, *children = trials(preset({"routers": ["soft_moe"]}, swept, other))
    assert [child.parent for child in children] == [first] * 4
    alone = {"routers": ["soft_moe"], "parent": parent}
    with pytest.raises(RequestError, match="no single trial of router 'soft_moe' comes before"):
        trials(preset(alone))


@pytest.mark.parametrize("parts", [[], [{}]])
def test_a_setting_of_the_command_replaces_a_sweep_of_the_preset(preset, parts) -> None:
    asked = preset(*parts, sweep={"experts.num_experts": (2, 4), "train.lr": (1, 2)})
    specs = trials(asked, settings={"experts.num_experts": 8})
    assert {spec.experts.num_experts for spec in specs} == {8}
    assert {spec.train.lr for spec in specs} == {1, 2}
