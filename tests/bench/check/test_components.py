"""The checks of experts and losses accept right ones and name the faults of wrong ones."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from bench.check import check_component
from bench.model import EXPERTS, Experts
from bench.plan.registration import find_component
from routers import LOSSES, RequestError


@contextmanager
def registered(registry, target, **options):
    registry.register("broken", **options)(target)
    try:
        yield "broken"
    finally:
        registry.discard("broken")


def failures_of(registry, target):
    """Return the details of the checks that a component fails, by name."""
    with registered(registry, target) as name:
        failures = check_component(registry.get(name)).failures
    return {failure.name: failure.detail for failure in failures}


@pytest.mark.parametrize("name", EXPERTS.names())
def test_built_in_experts_pass(name):
    report = check_component(EXPERTS.get(name))
    assert report.passed, report.failures
    assert len(report.results) == 10


@pytest.mark.parametrize("name", LOSSES.names())
def test_built_in_losses_pass(name):
    report = check_component(LOSSES.get(name))
    assert report.passed, report.failures
    assert len(report.results) == 6


class Scaled(Experts):
    """Each expert multiplies by its own vector."""

    def __init__(self, num_experts, replaced, **hyper):
        super().__init__(num_experts, replaced, **hyper)
        self.scale = nn.Parameter(torch.randn(num_experts, 1, 1, replaced.dim))

    def forward(self, slot_inputs):
        return slot_inputs * self.scale


class Leaking(Scaled):
    def forward(self, slot_inputs):
        return super().forward(slot_inputs) + slot_inputs.mean((1, 2), keepdim=True)


class Offset(Scaled):
    def apply(self, routing, x):
        return super().apply(routing, x) + 1


class Drawing(Scaled):
    def forward(self, slot_inputs):
        return super().forward(slot_inputs + torch.randn_like(slot_inputs))


class Deaf(Scaled):
    def __init__(self, num_experts, replaced, **hyper):
        super().__init__(num_experts, replaced, **hyper)
        self.unused = nn.Parameter(torch.ones(3))


class Crashing(Scaled):
    def forward(self, slot_inputs):
        raise ValueError("by design")


class Infinite(Scaled):
    def forward(self, slot_inputs):
        return super().forward(slot_inputs) / slot_inputs.abs().sum(-1, keepdim=True)


class Forgetful(Scaled):
    def __init__(self, num_experts, replaced, **hyper):
        super().__init__(num_experts, replaced, **hyper)
        self.kept = torch.randn(replaced.dim)

    def forward(self, slot_inputs):
        return super().forward(slot_inputs) * self.kept


class Misnamed(Scaled):
    width = "hidden"


class Rigid(Scaled):
    width = "units"

    units: int | None = None


@pytest.mark.parametrize(
    ("experts", "check", "message"),
    [
        (Misnamed, "width", "'hidden' is none of their hyper-parameters"),
        (Rigid, "width", "parameters at units = 1, 2, 3, 8: 72, 72, 72, 72"),
        (Leaking, "apart", "y of a token"),
        (Offset, "off", "y with all off"),
        (Drawing, "repeatable", "different"),
        (Deaf, "gradient", "unused gets no gradient"),
        (Crashing, "runs", "ValueError: by design"),
        (Infinite, "finite", "not finite"),
        (Forgetful, "save", "after loading"),
    ],
)
def test_a_fault_in_experts_is_found(experts, check, message):
    failures = failures_of(EXPERTS, experts)
    assert message in failures[check]
    assert "for an MLP, defaults" in failures[check]


class Nan(Scaled):
    def forward(self, slot_inputs):
        return super().forward(slot_inputs).log()


class Squeezed(Scaled):
    def forward(self, slot_inputs):
        return super().forward(slot_inputs)[..., :-1]


@pytest.mark.parametrize(
    ("experts", "message", "line"),
    [
        (Nan, "y has ", "return super().forward(slot_inputs).log()"),
        (Squeezed, "", "return super().forward(slot_inputs)[..., :-1]"),
    ],
)
def test_the_first_cause_in_experts_is_reported_once(experts, message, line):
    with registered(EXPERTS, experts) as name:
        report = check_component(EXPERTS.get(name))
    (cause,) = report.causes
    assert message in cause.detail
    assert line in cause.detail


def test_a_users_own_experts_pass():
    with registered(EXPERTS, Scaled, family="test") as name:
        assert check_component(find_component(f"experts:{name}")).passed


def no_gradient(routing, batch):
    return routing.gates.detach().square().sum()


def by_position(routing, batch):
    return (routing.gates[0] * 2).sum(0)[0] + routing.gates[1:].square().sum()


def vector(routing, batch):
    return routing.gates.sum((0, 1))


def drawing(routing, batch):
    return routing.gates.square().sum() * torch.rand(())


def overflowing(routing, batch):
    return routing.logits.flatten(2).exp().sum()


@pytest.mark.parametrize(
    ("loss", "check", "message"),
    [
        (no_gradient, "gradient", "does not require grad"),
        (by_position, "order", "the first order gives"),
        (vector, "scalar", "shape (4,), not ()"),
        (drawing, "pure", "the first time gives"),
        (overflowing, "finite", "large logits"),
    ],
)
def test_a_fault_in_a_loss_is_found(loss, check, message):
    failures = failures_of(LOSSES, loss)
    assert message in failures[check]


def test_a_loss_that_is_no_tensor_is_reported_once():
    with registered(LOSSES, lambda routing, batch: 1.0) as name:
        report = check_component(LOSSES.get(name))
    (failure,) = report.failures
    assert (failure.name, "a float is returned, not a Tensor" in failure.detail) == ("runs", True)
    assert {result.status for result in report.results[1:]} == {"not run"}


def test_a_name_is_looked_up_among_all_kinds_of_components():
    assert find_component("attentive").kind == "router"
    assert find_component("affinity:attentive").kind == "affinity"
    assert find_component("importance").kind == "loss"
    with pytest.raises(RequestError, match="use experts:mlp or affinity:mlp"):
        find_component("mlp")
    with pytest.raises(RequestError, match="no kind 'expert' of components; did you mean"):
        find_component("expert:mlp")
    with pytest.raises(RequestError, match="no component is named 'importence'; did you mean"):
        find_component("importence")


def test_an_affinity_is_checked_in_routers():
    with pytest.raises(RequestError, match="every router is checked with every affinity"):
        check_component(find_component("affinity:linear"))
