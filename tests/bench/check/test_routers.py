"""Checks accept correct routers, and say what they looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.check import behaviour, check_router
from bench.check.cases import subjects
from routers import (
    ROUTERS,
    Baseline,
    MixtureRouting,
    RequestError,
    Router,
    Routing,
    TokenChoiceRouting,
    hyper,
    list_routers,
)
from routers.token_choice import SoftmaxTokenChoice
from tests.bench.check.conftest import checked, failed, text

BUILT_IN = [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_routers_pass(name):
    report = check_router(name)
    assert report.passed, text(report)
    # For experts averaged in weight space, D and C do not determine the output.
    defined = set() if name == "smear" else {"definition"}
    assert {result.name for result in report.results if result.status == "passed"} >= defined | {
        "shapes",
        "slots",
        "gates",
        "repeatable",
        "groups",
        "finite",
        "save",
    }


@pytest.mark.parametrize("name", ["dense", "dense_params"])
def test_baselines_have_nothing_to_check(name):
    report = check_router(name)
    assert report.passed
    assert report.results == ()
    assert "there is nothing to route" in text(report)


def test_each_hyper_parameter_is_varied_from_its_default():
    labels = [subject.label for subject in subjects("softmax_token_choice", {}, {})]
    assert labels[0] == "defaults"
    for setting in ("top_k=2", "capacity_factor=None", "noise_std=1.0", "affinity=cosine"):
        assert setting in labels
    assert "top_k=2, capacity_factor=0.7, renormalize=True" in labels
    # The router refuses this, rightly: a single renormalised weight is always 1.
    assert "renormalize=True" not in labels


def test_given_options_are_not_varied():
    settings = subjects("softmax_token_choice", {"top_k": 3}, {})
    assert all(subject.options["top_k"] == 3 for subject in settings)
    assert len(settings) > 5


def test_an_invalid_request_is_refused():
    with pytest.raises(RequestError, match="did you mean 'soft_moe'"):
        check_router("softmoe")
    with pytest.raises(RequestError, match=r"has no hyper-parameter 'topk'.*did you mean 'top_k'"):
        check_router("softmax_token_choice", topk=2)


def test_a_plugins_own_hyper_parameters_are_explored():
    class Tempered(Router):
        """Top-1 with a temperature."""

        temperature: float = hyper(1.0, "Of the softmax.", gt=0, tune=None)
        kind: bool = hyper(False, "Whatever.")

        def allocate(self, logits: torch.Tensor) -> Routing:
            gates = (logits / self.temperature).softmax(-1)
            return TokenChoiceRouting.top_k(gates, 1, self.capacity(logits))

    report = checked(Tempered, "temperature", "kind")
    assert report.passed, text(report)
    assert len(report.settings) == 2
    assert report.settings[1].endswith(", kind=True")


class Crash(SoftmaxTokenChoice):
    """Divides by zero."""

    def allocate(self, logits):
        raise ZeroDivisionError("no tokens")


def test_a_crash_is_reported_once_with_its_line():
    report = checked(Crash)
    assert [result.name for result in report.failures] == ["runs"]
    crash = ": random input, training mode: ZeroDivisionError: no tokens, at "
    assert crash in report.failures[0].detail
    assert report.failures[0].detail.endswith('raise ZeroDivisionError("no tokens")')
    assert {result.status for result in report.results[1:]} == {"not run"}


class CrashOfOneSetting(SoftmaxTokenChoice):
    """One slot too many, and a crash without a capacity factor."""

    def capacity(self, logits, k=1):
        return super().capacity(logits, k) + 1


def test_a_setting_that_crashes_does_not_hide_other_faults():
    causes, consequences = failed(CrashOfOneSetting, "capacity_factor")
    assert causes.keys() == {"runs", "capacity"}
    assert not consequences
    assert (
        "capacity_factor=None: random input, training mode: TypeError: unsupported operand"
        in causes["runs"]
    )


class BatchNormGate(SoftmaxTokenChoice):
    """Logits normalised over the batch, and by running statistics in eval mode."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.num_experts)

    def compute_logits(self, tokens, context):
        return self.norm(super().compute_logits(tokens, context).transpose(1, 2)).transpose(1, 2)


def test_batch_statistics_are_checked_in_eval_mode_and_the_report_says_so():
    report = checked(BatchNormGate)
    assert report.passed, text(report)
    groups = next(result for result in report.results if result.name == "groups")
    assert groups.detail.startswith("in eval mode only: training uses batch statistics")


@pytest.mark.parametrize(
    ("name", "options", "depends"),
    [
        ("diffmoe", {"evaluation": "count"}, True),
        ("diffmoe", {}, False),
        ("expert_race", {}, False),
        ("softmax_expert_choice", {}, False),
    ],
)
def test_dependence_on_other_images_in_evaluation_is_reported(name, options, depends):
    note = behaviour.images(subjects(name, options, {})[0])
    assert note == ("routing depends on the other images of the batch, in evaluation too" * depends)


class UnevenCapacities(SoftmaxTokenChoice):
    """Half of the experts have three times the capacity of the others."""

    surplus: float = 1.0

    def allocate(self, logits):
        share = torch.tensor([0.5, 0.5, 1.5, 1.5])[: self.num_experts] * self.surplus
        even = self.capacity(logits, self.top_k) or logits.shape[1]
        limits = (share * even).ceil().long().clamp(max=logits.shape[1])
        return TokenChoiceRouting.top_k(logits.softmax(-1), self.top_k, limits)


def test_experts_may_differ_in_capacity_if_their_sum_is_right():
    report = checked(UnevenCapacities)
    assert report.passed, text(report)
    capacity = next(result for result in report.results if result.name == "capacity")
    assert "by the router's own capacities" in capacity.detail
    report = checked(UnevenCapacities, surplus=2.0)
    assert [result.name for result in report.failures] == ["capacity"]


class AnyNumber(Router):
    """Each token takes every expert whose gate is above a quarter."""

    def allocate(self, logits):
        gates = logits.softmax(-1)
        weights, experts = gates.sort(-1, descending=True)
        chosen = weights > 0.25
        capacity = self.capacity(logits)
        return TokenChoiceRouting.from_choices(gates, experts, weights, capacity, chosen=chosen)


class Mixture(Router):
    """Every expert on every token."""

    def allocate(self, logits):
        return MixtureRouting(logits.softmax(-1))


@pytest.mark.parametrize("target", [AnyNumber, Mixture])
def test_routers_with_other_forms_of_routing_pass(target):
    report = checked(target, "capacity_factor")
    assert report.passed, text(report)
