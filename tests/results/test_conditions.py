"""The condition of a trial: what sets it apart, so that only like is compared with like."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from report.conditions import Entry
from results.conditions import conditions as conditions_of
from results.conditions import label_of
from results.settings import comparable


def conditions(*descriptions: Any, **more: Any) -> list[str]:
    """Return the labels of the conditions of some descriptions."""
    return [condition.label for condition in conditions_of(*descriptions, **more)]


def trial(router: str, parent: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Make a description: `losses=`, `options=` of the router, `lr=`, `experts=` their number."""
    described = {
        "router": {"name": router, "options": settings.get("options", {})},
        "experts": {"name": "mlp", "num_experts": settings.get("experts", 8)},
        "train": {"lr": settings.get("lr", 0.1), "losses": settings.get("losses", {})},
        "seed": settings.get("seed", 0),
    }
    return described | ({} if parent is None else {"parent": parent, "transform": "distill"})


def test_a_parent_is_named_without_settings_in_which_all_parents_agree() -> None:
    parent = trial("attentive", options={"heads": 2}, losses={"importance": 0.6})
    child = trial("plain", parent, options={"top_k": 1})
    labels = conditions([parent, trial("plain", options={"top_k": 1}), child])
    assert labels == ["", "", "transform=distill parent=attentive"]


def test_the_losses_of_parents_are_shown_if_children_have_none() -> None:
    weights: tuple[dict[str, float], ...] = ({}, {"importance": 0.6}, {"similarity": 0.4})
    parents = [trial("attentive", losses=losses) for losses in weights]
    children = [trial("plain", parent) for parent in parents]
    weights_shown = [("unset", "unset"), ("0.6", "unset"), ("unset", "0.4")]
    assert conditions(parents + children) == [
        *(
            f"train.losses.importance={one} train.losses.similarity={other}"
            for one, other in weights_shown
        ),
        *(
            f"transform=distill parent=attentive parent.train.losses.importance={one} "
            f"parent.train.losses.similarity={other}"
            for one, other in weights_shown
        ),
    ]


def test_a_parents_settings_are_not_repeated_if_the_child_has_the_same() -> None:
    parents = [trial("attentive", experts=experts) for experts in (4, 8)]
    children = [
        trial("plain", parent, experts=parent["experts"]["num_experts"]) for parent in parents
    ]
    assert conditions(parents + children) == [
        "experts.num_experts=4",
        "experts.num_experts=8",
        "experts.num_experts=4 transform=distill parent=attentive",
        "experts.num_experts=8 transform=distill parent=attentive",
    ]


def test_a_setting_that_children_fix_is_shown_for_every_parent() -> None:
    parents = [trial("attentive", lr=lr) for lr in (0.1, 0.2)]
    children = [trial("plain", parent, lr=0.1) for parent in parents]
    assert conditions(parents + children)[2:] == [
        "transform=distill parent=attentive parent.train.lr=0.1",
        "transform=distill parent=attentive parent.train.lr=0.2",
    ]


def test_settings_common_to_all_derived_trials_are_implied_by_their_origin() -> None:
    parent = trial("attentive", lr=0.1)
    labels = conditions([parent, trial("plain", lr=0.1), trial("plain", parent, lr=0.5)])
    assert labels == ["", "", "transform=distill parent=attentive"]


def test_options_of_a_loss_are_shown_only_if_they_differ_themselves() -> None:
    def with_loss(**options: float) -> dict[str, Any]:
        made = trial("soft", losses={"similar": 0.1})
        return made | {"train": made["train"] | {"loss_options": {"similar": options}}}

    alone = ["train.losses.similar=unset", "train.losses.similar=0.1"]
    assert conditions([trial("soft"), with_loss(beta=1.0)]) == alone
    assert conditions([trial("soft"), with_loss(beta=1.0), with_loss(beta=2.0)])[1:] == [
        "train.loss_options.similar.beta=1.0 train.losses.similar=0.1",
        "train.loss_options.similar.beta=2.0 train.losses.similar=0.1",
    ]


def test_children_of_different_routers_are_distinguished_by_parent_name_alone() -> None:
    parents = [trial("attentive", options={"heads": 2}), trial("soft", options={"slots": 3})]
    children = [trial("plain", parent) for parent in parents]
    assert conditions(children) == ["parent=attentive", "parent=soft"]


def test_the_seed_of_a_parent_is_no_condition_and_a_grandparent_is_named() -> None:
    seeds = [trial("attentive", seed=seed) for seed in (0, 1)]
    children = [trial("plain", parent, seed=parent["seed"]) for parent in seeds]
    assert conditions(children) == ["", ""]
    grandchildren = [trial("other", child, seed=child["seed"]) for child in children]
    assert conditions([*seeds, *children, *grandchildren]) == [
        *["", ""],
        *["transform=distill parent=attentive"] * 2,
        *["transform=distill parent=plain"] * 2,
    ]


def test_only_settings_needed_to_distinguish_all_trials_are_kept() -> None:
    def system(
        name: str, experts: str, data: str, size: int, depth: int, lr: float
    ) -> dict[str, Any]:
        made = trial(name, lr=lr)
        model = {"options": {"depth": depth, "img_size": size}}
        return made | {"experts": {"name": experts}, "data": {"name": data}, "model": model}

    small = system("soft", "mlp", "digits", 8, 2, 0.1)
    large = system("soft", "mlp", "fashion", 28, 4, 0.2)
    shared = system("soft", "cp", "digits", 8, 2, 0.1)
    assert conditions([small, large, shared]) == [
        "data.name=digits experts.name=mlp train.lr=0.1",
        "data.name=fashion experts.name=mlp train.lr=0.2",
        "data.name=digits experts.name=cp train.lr=0.1",
    ]


def tuned(router: str, lr: float, temperature: float, **settings) -> dict:
    described = {
        "router": {"name": router, "options": {"temperature": temperature}},
        "experts": {"num_experts": settings.get("experts", 8)},
        "train": {"lr": lr},
        "found": ["train.lr", "router.temperature"],
    }
    return described | {name: value for name, value in settings.items() if name != "experts"}


def test_settings_tuned_per_router_do_not_split_conditions():
    trials = [tuned("a", 0.1, 1.0), tuned("b", 0.2, 2.0), tuned("a", 0.3, 1.5, experts=32)]
    assert conditions(trials) == [
        "experts.num_experts=8",
        "experts.num_experts=8",
        "experts.num_experts=32",
    ]


def test_tuned_and_given_settings_are_different_conditions():
    untuned = {name: value for name, value in tuned("a", 0.1, 1.0).items() if name != "found"}
    assert conditions([tuned("a", 0.2, 1.0), untuned]) == [
        "router.temperature=found train.lr=found",
        "router.temperature=1.0 train.lr=0.1",
    ]


def test_the_training_recipe_of_a_bare_layer_is_not_required():
    layer = {name: value for name, value in tuned("a", 0.1, 1.0).items() if name != "train"}
    assert comparable(layer)["router"]["options"] == {"temperature": "found"}


def test_an_aa_replicate_is_labelled_and_does_not_split_conditions():
    same, replicate = tuned("a", 0.1, 1.0), tuned("a", 0.1, 1.0, twin=1)
    assert [label_of(each) for each in (same, replicate)] == ["a", "a (twin)"]
    assert conditions([same, replicate]) == ["", ""]


def capacity(router: str, factor: float | None = None, **settings: Any) -> dict[str, Any]:
    options = {} if factor is None else {"capacity_factor": factor}
    return trial(router, options=options, **settings)


def test_once_one_router_varies_a_setting_every_router_shows_its_own_value():
    """So does `late`, which has a single value; a router without the setting shows none."""
    varied = [capacity("plain", 1.0), capacity("plain", 2.0)]
    assert conditions([*varied, capacity("late", 2.0), capacity("early", 1.0), trial("dense")]) == [
        "router.capacity_factor=1.0",
        "router.capacity_factor=2.0",
        "router.capacity_factor=2.0",
        "router.capacity_factor=1.0",
        "",
    ]


def test_defaults_that_differ_between_routers_do_not_split_conditions():
    assert conditions([capacity("plain", 1.0), capacity("late", 2.0)]) == ["", ""]


def test_a_loss_not_trained_with_is_unset_and_a_baseline_has_none():
    losses: tuple[dict[str, float], ...] = ({"importance": 0.1}, {"importance": 0.1, "z": 0.2}, {})
    trials = [trial("plain", losses=losses[n]) for n in (0, 1)]
    trials += [trial("late", losses=losses[n]) for n in (1, 2)] + [trial("dense")]
    assert conditions(trials, baselines=["dense"]) == [
        "train.losses.importance=0.1 train.losses.z=unset",
        "train.losses.importance=0.1 train.losses.z=0.2",
        "train.losses.importance=0.1 train.losses.z=0.2",
        "train.losses.importance=unset train.losses.z=unset",
        "",
    ]


def test_a_model_without_experts_is_comparable_with_any_number_of_them():
    trials = [trial("plain", experts=8), trial("plain", experts=32), trial("dense", experts=8)]
    assert conditions(trials, baselines=["dense"]) == [
        "experts.num_experts=8",
        "experts.num_experts=32",
        "",
    ]
    assert conditions([trials[0], trials[2]], baselines=["dense"]) == ["", ""]


def test_options_of_models_and_affinities_that_were_not_given_are_unset():
    def made(router: str, model: dict[str, Any], affinity: dict[str, Any]) -> dict[str, Any]:
        plain = trial(router, options={"affinity_options": affinity})
        return plain | {"model": {"name": "vit", "options": model}}

    trials = [made("plain", {}, {}), made("plain", {"drop": 0.1}, {"hidden": [4]})]
    assert conditions([*trials, made("late", {}, {})]) == [
        "model.options.drop=unset router.affinity_options.hidden=unset",
        "model.options.drop=0.1 router.affinity_options.hidden=[4]",
        "model.options.drop=unset router.affinity_options.hidden=unset",
    ]


def test_a_setting_tuned_for_each_router_varies_for_none():
    trials = [tuned("a", 0.1, 1.0), tuned("a", 0.2, 2.0, seed=1), tuned("b", 0.3, 3.0)]
    assert conditions(trials) == ["", "", ""]


def test_children_show_a_parent_setting_once_siblings_differ_in_it():
    parents = [trial("attentive", losses=losses) for losses in ({}, {"z": 0.2})]
    children = [trial("plain", parents[0]), trial("plain", parents[1]), trial("late", parents[1])]
    assert conditions(children) == [f"parent.train.losses.z={z}" for z in ("unset", "0.2", "0.2")]


def test_a_layer_shows_the_same_settings_as_the_trials_beside_it():
    def layer(router: str, factor: float, **options: Any) -> dict[str, Any]:
        made = trial(router, options={"capacity_factor": factor, **options})
        return {name: made[name] for name in ("router", "experts")}

    trials = [capacity("plain", 1.0), capacity("plain", 2.0), capacity("late", 1.0)]
    measured = [layer("plain", 1.0), layer("late", 1.0)]
    assert conditions(measured) == ["", ""]
    assert conditions(measured, trained=trials) == ["router.capacity_factor=1.0"] * 2
    assert conditions([], trained=trials) == []
    # Layers of one router are distinguished nevertheless.
    more = [*measured, layer("late", 1.0, top_k=2)]
    assert conditions(more, trained=trials)[1:] == [
        "router.capacity_factor=1.0",
        "router.capacity_factor=1.0 router.top_k=2",
    ]


HAVE = {"plain": {"a", "b", "c"}, "soft": {"b", "c"}, "late": {"a"}}
"""The options that each router has."""
OF_ALL = ("lr", "depth")
Values = dict[str, Any]


@st.composite
def values(draw: st.DrawFn) -> tuple[str, Values]:
    """Return a router and all settings of its trial, None for unset ones."""
    router = draw(st.sampled_from(sorted(HAVE)))
    lr, depth = draw(st.sampled_from([0.1, 0.2])), draw(st.sampled_from([None, 2, 4]))
    options = {name: draw(st.sampled_from([1, 2])) for name in sorted(HAVE[router])}
    losses = {name: draw(st.sampled_from([None, 0.1])) for name in ("importance", "z")}
    return router, {"lr": lr, "depth": depth, **options, **losses}


def described(router: str, values: Values) -> dict[str, Any]:
    losses = {name: values[name] for name in ("importance", "z") if values[name] is not None}
    options = {name: values[name] for name in HAVE[router]}
    model = {} if values["depth"] is None else {"depth": values["depth"]}
    description = trial(router, options=options, losses=losses, lr=values["lr"])
    return description | {"model": {"options": model}}


@given(st.lists(values(), min_size=2, max_size=8))
def test_only_runs_of_equal_value_stand_beside_each_other(runs):
    conditions_shown = conditions_of([described(*run) for run in runs])
    entries = [
        Entry(router, condition)
        for (router, _), condition in zip(runs, conditions_shown, strict=True)
    ]

    def differ(one: Values, other: Values) -> set[str]:
        return {path for path in one.keys() & other.keys() if one[path] != other[path]}

    pairs = list(combinations(range(len(runs)), 2))
    varied = {
        path
        for i, j in pairs
        for path in differ(runs[i][1], runs[j][1])
        if path in OF_ALL or runs[i][0] == runs[j][0]
    }
    for i, j in pairs:
        if differ(runs[i][1], runs[j][1]) & varied:
            assert not entries[i].compares_with(entries[j])
        if runs[i][0] == runs[j][0]:
            assert (entries[i] == entries[j]) == (runs[i] == runs[j])
