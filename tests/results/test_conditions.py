"""The condition of a derived trial: what it started from, and no more of that than is needed."""

from __future__ import annotations

from typing import Any

from results.conditions import comparable, conditions, router_of


def trial(router: str, parent: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A description; `losses=` and `options=` of the router, `lr=`, `experts=` their number."""
    told = {
        "router": {"name": router, "options": settings.get("options", {})},
        "experts": {"name": "mlp", "num_experts": settings.get("experts", 8)},
        "train": {"lr": settings.get("lr", 0.1), "losses": settings.get("losses", {})},
        "seed": settings.get("seed", 0),
    }
    return told | ({} if parent is None else {"parent": parent, "transform": "distill"})


def test_a_parent_is_named_and_its_settings_are_left_out_where_all_agree() -> None:
    parent = trial("attentive", options={"heads": 2}, losses={"importance": 0.6})
    child = trial("plain", parent, options={"top_k": 1})
    found = conditions([parent, trial("plain", options={"top_k": 1}), child])
    assert found == ["", "", "transform=distill parent=attentive"]


def test_the_losses_of_parents_show_where_children_have_none() -> None:
    weights: tuple[dict[str, float], ...] = ({}, {"importance": 0.6}, {"similarity": 0.4})
    parents = [trial("attentive", losses=losses) for losses in weights]
    children = [trial("plain", parent) for parent in parents]
    told = ["", "train.losses.importance=0.6", "train.losses.similarity=0.4"]
    assert conditions(parents + children) == [
        *told,
        "transform=distill parent=attentive",
        *(f"transform=distill parent=attentive parent.{text}" for text in told[1:]),
    ]


def test_what_the_childs_own_settings_tell_is_not_told_again() -> None:
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


def test_a_setting_that_the_child_fixes_is_told_of_every_parent() -> None:
    parents = [trial("attentive", lr=lr) for lr in (0.1, 0.2)]
    children = [trial("plain", parent, lr=0.1) for parent in parents]
    assert conditions(parents + children)[2:] == [
        "transform=distill parent=attentive parent.train.lr=0.1",
        "transform=distill parent=attentive parent.train.lr=0.2",
    ]


def test_what_all_derived_trials_have_of_their_own_is_told_by_their_origin() -> None:
    parent = trial("attentive", lr=0.1)
    found = conditions([parent, trial("plain", lr=0.1), trial("plain", parent, lr=0.5)])
    assert found == ["", "", "transform=distill parent=attentive"]


def test_the_options_of_a_loss_are_told_where_they_differ_and_not_where_the_loss_does() -> None:
    def with_loss(**options: float) -> dict[str, Any]:
        made = trial("soft", losses={"similar": 0.1})
        return made | {"train": made["train"] | {"loss_options": {"similar": options}}}

    assert conditions([trial("soft"), with_loss(beta=1.0)]) == ["", "train.losses.similar=0.1"]
    assert conditions([trial("soft"), with_loss(beta=1.0), with_loss(beta=2.0)])[1:] == [
        "train.loss_options.similar.beta=1.0 train.losses.similar=0.1",
        "train.loss_options.similar.beta=2.0 train.losses.similar=0.1",
    ]


def test_children_of_several_routers_are_told_apart_by_their_names_alone() -> None:
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


def test_of_many_settings_those_stay_that_tell_all_trials_apart() -> None:
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


def test_what_was_found_for_a_router_alone_sets_no_condition_apart():
    found = [tuned("a", 0.1, 1.0), tuned("b", 0.2, 2.0), tuned("a", 0.3, 1.5, experts=32)]
    assert conditions(found) == [
        "experts.num_experts=8",
        "experts.num_experts=8",
        "experts.num_experts=32",
    ]


def test_a_setting_that_was_found_stands_beside_one_that_was_given():
    given = {name: value for name, value in tuned("a", 0.1, 1.0).items() if name != "found"}
    assert conditions([tuned("a", 0.2, 1.0), given]) == [
        "router.temperature=found train.lr=found",
        "router.temperature=1.0 train.lr=0.1",
    ]


def test_of_a_bare_layer_the_recipe_is_not_looked_for():
    layer = {name: value for name, value in tuned("a", 0.1, 1.0).items() if name != "train"}
    assert comparable(layer)["router"]["options"] == {"temperature": "found"}


def test_a_twin_has_a_name_of_its_own():
    same, twin = tuned("a", 0.1, 1.0), tuned("a", 0.1, 1.0, twin=1)
    assert [router_of(each) for each in (same, twin)] == ["a", "a (twin)"]
    assert conditions([same, twin]) == ["", ""]
