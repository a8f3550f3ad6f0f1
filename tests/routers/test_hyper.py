"""Hyper-parameters are declared once, inherited, removed, validated and shown."""

import math
from itertools import permutations
from typing import ClassVar, Literal

import pytest
import torch

from routers import (
    Choice,
    Configurable,
    Range,
    RequestError,
    Router,
    hyper,
    list_routers,
    register_router,
)
from routers.hyper import function_hyper_model, hyper_infos, validated
from routers.learned_threshold import LearnedThreshold
from routers.threshold import BatchChoice


class Base(Configurable):
    rate: float = hyper(0.5, "How fast.", gt=0, tune=Range(0.1, 1.0, log=True))
    mode: Literal["a", "b"] = hyper("a", "Which.", tune=Choice(("a", "b")))
    plain: int = 3


class Child(Base):
    mode: ClassVar[str] = "b"
    extra: float | None = None


def test_fields_keep_their_order_description_and_range():
    infos = {info.name: info for info in hyper_infos(Base.hyper_model)}
    assert list(infos) == ["rate", "mode", "plain"]
    assert infos["rate"].tune == Range(0.1, 1.0, log=True)
    assert infos["rate"].meaning == "How fast."
    assert infos["mode"].type == "'a' | 'b'"
    assert infos["plain"].default == 3


def test_a_class_attribute_reads_as_its_default():
    assert Base.rate == 0.5
    assert Base.plain == 3


def test_a_subclass_can_inherit_add_and_remove_hyper_parameters():
    assert [info.name for info in hyper_infos(Child.hyper_model)] == ["rate", "plain", "extra"]
    assert hyper_infos(Child.hyper_model)[-1].type == "float | None"
    assert validated(Child.hyper_model, "Child", {"rate": 2})["rate"] == 2.0
    with pytest.raises(RequestError, match="no hyper-parameter 'mode'"):
        validated(Child.hyper_model, "Child", {"mode": "a"})


def test_a_removed_hyper_parameter_stays_removed_in_further_subclasses():
    class Grandchild(Child):
        """Adds nothing."""

    assert [info.name for info in hyper_infos(Grandchild.hyper_model)] == ["rate", "plain", "extra"]


class Other(Base):
    rate: float = 0.25


class Plain:
    plain: ClassVar[int] = 7


def names(kind):
    return [info.name for info in hyper_infos(kind.hyper_model)]


@pytest.mark.parametrize("bases", [(Child, Other), (Other, Child)])
def test_multiple_bases_keep_their_own_declarations_in_any_order(bases):
    """Neither brings back what the other only inherits."""
    kind = type("Combined", bases, {})
    assert set(names(kind)) == {"rate", "plain", "extra"}
    assert (kind.rate, kind.mode, kind.plain, kind.extra) == (0.25, "b", 3, None)
    assert validated(kind.hyper_model, "Combined", {}) == {"rate": 0.25, "plain": 3, "extra": None}


@pytest.mark.parametrize("bases", [(Plain, Other, Child), (Other, Plain, Child)])
def test_a_mixin_that_is_not_configurable_can_remove_a_hyper_parameter(bases):
    kind = type("Combined", bases, {})
    assert names(kind) == ["extra", "rate"]
    assert kind.plain == 7


def test_the_first_declaration_in_method_resolution_order_wins():
    class Fixed(Base):
        rate: ClassVar[float] = 9.0

    first, last = type("First", (Fixed, Other), {}), type("Last", (Other, Fixed), {})
    assert ("rate" in names(first), first.rate) == (False, 9.0)
    assert ("rate" in names(last), last.rate) == (True, 0.25)


def test_an_annotation_without_a_value_declares_nothing():
    class Typed(Base):
        rate: float
        buffer: torch.Tensor

    assert names(Typed) == names(Base)
    assert names(type("Grandchild", (Typed,), {})) == names(Base)


def test_the_order_of_the_bases_of_a_threshold_router_does_not_matter():
    kinds = [type("Both", bases, {}) for bases in permutations((BatchChoice, LearnedThreshold))]
    assert set(names(kinds[0])) == set(names(kinds[1]))
    assert not {"noise_std", "eval_capacity_factor"} & set(names(kinds[1]))
    assert "capacity_factor" in names(kinds[1])


def test_a_value_without_a_type_is_refused():
    with pytest.raises(RequestError, match=r"X.rate = 0.9 has no type .*`rate: float = …`, or"):
        type("X", (Base,), {"rate": 0.9})


def test_instances_have_validated_values():
    child = Child()
    child.set_hyper({"rate": "0.25"})
    assert child.rate == 0.25
    assert child.hyper_values() == {"rate": 0.25, "plain": 3, "extra": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rat": 1.0}, "no hyper-parameter 'rat'; did you mean 'rate'"),
        ({"rate": 0}, "rate = 0 is not valid: Input should be greater than 0"),
        ({"mode": "c"}, "mode = 'c' is not valid"),
    ],
)
def test_an_invalid_option_is_one_clear_message(options, message):
    with pytest.raises(RequestError, match=message):
        validated(Base.hyper_model, "Base", options)


def test_a_functions_keyword_arguments_are_its_hyper_parameters():
    def loss(routing, batch, *, beta: float = 0.5):
        return routing, batch, beta

    model = function_hyper_model(loss)
    assert [info.name for info in hyper_infos(model)] == ["beta"]
    assert validated(model, "loss", {"beta": 2}) == {"beta": 2.0}


def test_a_users_router_needs_only_one_annotation():
    class Temperature(Router):
        temperature: float = 0.5

    assert "temperature" in [info.name for info in hyper_infos(Temperature.hyper_model)]
    assert Temperature(4, 2, temperature=0.1).temperature == 0.1


def test_resolving_hyper_parameters_is_idempotent():
    resolved = validated(Router.hyper_model, "Router", {})
    assert validated(Router.hyper_model, "Router", resolved) == resolved


def test_a_constraint_applies_to_the_numbers_of_a_union():
    shown = {info.name: info.type for info in hyper_infos(Router.hyper_model)}
    assert shown["eval_capacity_factor"] == "float | 'same' | None"
    with pytest.raises(RequestError, match=r"eval_capacity_factor = 0 is not valid: .* than 0"):
        validated(Router.hyper_model, "Router", {"eval_capacity_factor": 0})


@pytest.mark.parametrize(
    ("annotation", "default", "message"),
    [
        (float, "high", r"router 'broken': own = 'high' is not valid: .*a valid number"),
        (float, hyper(2.0, "Too much.", le=1), r"own = 2\.0 is not valid: .*less than or equal"),
        (float, math.inf, r"own = inf is not valid: .*finite"),
        (torch.Tensor, torch.ones(2), "own is a Tensor, and a hyper-parameter is a number, text"),
        (
            float,
            hyper(0.5, "Of 1.", le=1, tune=Range(0.0, 2.0)),
            r"the search range of router 'broken': own = 2\.0 is not valid",
        ),
    ],
)
def test_an_unusable_declaration_is_refused_at_once(annotation, default, message):
    body = {"own": default, "__annotations__": {"own": annotation}}
    with pytest.raises(RequestError, match=message):
        register_router("broken")(type("Broken", (Router,), body))
    assert "broken" not in list_routers()
