"""The conformance checks pass for what is right, and name what is wrong."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import pytest
import torch
from rich.console import Console
from torch import nn

from bench.check import behaviour, check_router, reference, render
from bench.check.cases import subjects
from bench.check.outcome import CheckReport
from routers import (
    ROUTERS,
    Baseline,
    ExpertChoiceRouting,
    MixtureRouting,
    RequestError,
    Router,
    RouterContext,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
    hyper,
    list_routers,
    register_router,
)
from routers.soft import SoftMoE
from routers.token_choice import SoftmaxTokenChoice

BUILT_IN = [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]


def checked(target: type[Router], *explored: str, **hyper: object) -> CheckReport:
    """The report of a router whose hyper-parameters stay at their defaults but those explored."""
    register_router("broken", family="token_choice")(target)
    try:
        defaults = {info.name: info.default for info in ROUTERS.get("broken").hyper}
        fixed = {key: value for key, value in defaults.items() if key not in explored}
        return check_router("broken", **fixed | hyper)
    finally:
        ROUTERS.discard("broken")


def failed(target: type[Router], *explored: str) -> tuple[dict[str, str], set[str]]:
    """Details of the checks that a router fails, by name; and names of those that only follow."""
    report = checked(target, *explored)
    causes = {result.name: result.detail for result in report.causes}
    return causes, {result.name for result in report.failures} - causes.keys()


def text(report: CheckReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(render(report))
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_routers_pass(name):
    report = check_router(name)
    assert report.passed, text(report)
    # Of experts that are averaged in weight space D and C do not give the output.
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
def test_a_baseline_has_nothing_to_check(name):
    report = check_router(name)
    assert report.passed
    assert report.results == ()
    assert "there is nothing to route" in text(report)


def test_each_hyper_parameter_is_moved_from_its_default():
    labels = [subject.label for subject in subjects("softmax_token_choice", {}, {})]
    assert labels[0] == "defaults"
    for setting in ("top_k=2", "capacity_factor=None", "noise_std=1.0", "affinity=cosine"):
        assert setting in labels
    assert "top_k=2, capacity_factor=0.7, renormalize=True" in labels
    # Refused by the router, as it should be: a single renormalised weight is always 1.
    assert "renormalize=True" not in labels


def test_what_is_given_stays():
    settings = subjects("softmax_token_choice", {"top_k": 3}, {})
    assert all(subject.options["top_k"] == 3 for subject in settings)
    assert len(settings) > 5


def test_a_wrong_request_is_refused():
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


# Deliberately broken routers, each with the check that has to catch it.


class CapacityAbove(SoftmaxTokenChoice):
    """One slot more than the capacity."""

    def capacity(self, logits, k=1):
        slots = super().capacity(logits, k)
        return None if slots is None else min(slots + 1, logits.shape[1])


class CapacityBelow(SoftmaxTokenChoice):
    """One slot less: drops tokens that there is room for."""

    def capacity(self, logits, k=1):
        slots = super().capacity(logits, k)
        return None if slots is None else max(slots - 1, 1)


class CapacityIgnored(SoftmaxTokenChoice):
    """Drops nothing, whatever it is told."""

    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), self.top_k, None)


class CapacityOfExpertChoice(Router):
    """Experts take one token too many."""

    def allocate(self, logits):
        slots = self.capacity(logits)
        more = None if slots is None else min(slots + 1, logits.shape[1])
        return ExpertChoiceRouting.top_tokens(logits.softmax(-1), more)


class DetachedGate(SoftmaxTokenChoice):
    """The gates are cut off from the graph."""

    def allocate(self, logits):
        return super().allocate(logits.detach())


class ConstantWeight(SoftmaxTokenChoice):
    """A top-1 weight that is renormalised to 1, so that the gate learns nothing."""

    def allocate(self, logits):
        gates = logits.softmax(-1)
        weights, experts = gates.topk(self.top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        capacity = self.capacity(logits, self.top_k)
        return TokenChoiceRouting.from_choices(gates, experts, weights, capacity)


class UnusedParameter(SoftmaxTokenChoice):
    """A temperature that nothing reads."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.unused = nn.Parameter(torch.ones(()))


class LeakBetweenGroups(SoftmaxTokenChoice):
    """Logits are centred over the whole batch."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        return logits - logits.mean((0, 1))


class LeakOfCapacity(SoftmaxTokenChoice):
    """Groups share one queue, so that a group's tokens drop for those of another."""

    def allocate(self, logits):
        gates = logits.softmax(-1)
        joint = gates.flatten(0, 1).unsqueeze(0)
        slots = self.capacity(joint, self.top_k)
        routing = TokenChoiceRouting.top_k(joint, self.top_k, slots)
        kept = routing.kept.view(*logits.shape[:2], -1)
        weights, experts = gates.topk(self.top_k, -1)
        return TokenChoiceRouting.from_choices(
            gates, experts, weights * kept, self.capacity(logits, self.top_k)
        )


class NanOnConstantInput(SoftmaxTokenChoice):
    """Divides by the deviation over the tokens."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        centred = logits - logits.mean(1, keepdim=True)
        return centred / centred.square().mean(1, keepdim=True).sqrt()


class OverflowOnHugeInput(SoftmaxTokenChoice):
    """A softmax without the subtraction of the largest logit."""

    def allocate(self, logits):
        exponentials = logits.exp()
        gates = exponentials / exponentials.sum(-1, keepdim=True)
        return TokenChoiceRouting.top_k(gates, self.top_k, self.capacity(logits, self.top_k))


class OneExpertBreaks(SoftmaxTokenChoice):
    """Looks at the runner-up, which need not exist."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        return logits - logits.topk(2, -1).values[..., 1:].detach()


class RandomInEval(SoftmaxTokenChoice):
    """Noise that never stops."""

    def compute_logits(self, tokens, context):
        return super().compute_logits(tokens, context) + torch.randn(self.num_experts)


class UnseededNoise(SoftmaxTokenChoice):
    """Noise in training that does not come from the context's generator."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        return logits + torch.randn_like(logits) if self.training else logits


@dataclass(frozen=True, eq=False)
class WrongWeights(TokenChoiceRouting):
    """A fast path that forgets the gates."""

    def combine(self, slot_outputs):
        ones = torch.ones_like(self.weights)
        return TokenChoiceRouting(
            self.gates, self.experts, ones, self.position, self.capacity
        ).combine(slot_outputs)


class WrongFastPath(SoftmaxTokenChoice):
    """Right tensors, wrong shortcut."""

    def allocate(self, logits):
        capacity = self.capacity(logits, self.top_k)
        return WrongWeights.top_k(logits.softmax(-1), self.top_k, capacity)


@dataclass(frozen=True, eq=False)
class WrongGradients(TokenChoiceRouting):
    """A fast path of the right value whose gates get no gradient."""

    def combine(self, slot_outputs):
        return TokenChoiceRouting(
            self.gates, self.experts, self.weights.detach(), self.position, self.capacity
        ).combine(slot_outputs)


class WrongBackward(SoftmaxTokenChoice):
    """Right value, wrong gradient."""

    def allocate(self, logits):
        capacity = self.capacity(logits, self.top_k)
        return WrongGradients.top_k(logits.softmax(-1), self.top_k, capacity)


class UnnormalisedGates(SoftmaxTokenChoice):
    """Sigmoids are no distribution."""

    def allocate(self, logits):
        gates = logits.sigmoid()
        return TokenChoiceRouting.top_k(gates, self.top_k, self.capacity(logits, self.top_k))


class TwoTokensInASlot(SoftmaxTokenChoice):
    """Everyone stands first in the queue."""

    def allocate(self, logits):
        gates = logits.softmax(-1)
        weights, experts = gates.topk(self.top_k, -1)
        slots = self.capacity(logits, self.top_k) or logits.shape[1]
        return TokenChoiceRouting(gates, experts, weights, torch.zeros_like(experts), slots)


class SoftOverTheWrongAxis(SoftMoE):
    """Dispatch weights that are normalised over the slots."""

    def allocate(self, logits):
        weights = logits.flatten(2).softmax(-1).view_as(logits)
        return SoftRouting(weights.sum(-1), weights, weights)


@dataclass(frozen=True, eq=False)
class Miscounted(TokenChoiceRouting):
    """Reports the demand as its load."""

    def expert_load(self):
        return self.demand()


class WrongCounts(SoftmaxTokenChoice):
    """Says that nothing is dropped."""

    def allocate(self, logits):
        capacity = self.capacity(logits, self.top_k)
        return Miscounted.top_k(logits.softmax(-1), self.top_k, capacity)


class HalfPrecision(SoftmaxTokenChoice):
    """Computes in whatever autocast says."""

    def forward(self, tokens, context=None):
        logits = self.gate(tokens, context or RouterContext())
        routing = self.allocate(logits)
        return type(routing)(**{**vars(routing), "logits": logits, "noisy_logits": logits})


class ForgottenState(SoftmaxTokenChoice):
    """A random projection that is not saved."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        projection = torch.randn(self.dim, self.dim)
        self.register_buffer("projection", projection, persistent=False)

    def compute_logits(self, tokens, context):
        return super().compute_logits(tokens @ self.projection.to(tokens.dtype), context)


@dataclass(frozen=True, eq=False)
class Transposed(TokenChoiceRouting):
    """Weights by expert and token instead of by token and expert."""

    def combine_weights(self):
        return super().combine_weights().transpose(1, 2)


class WrongShape(SoftmaxTokenChoice):
    """An axis in the wrong place."""

    def allocate(self, logits):
        capacity = self.capacity(logits, self.top_k)
        return Transposed.top_k(logits.softmax(-1), self.top_k, capacity)


@pytest.mark.parametrize(
    ("broken", "numbers", "others"),
    [
        (CapacityAbove, {"capacity": "takes 5 of 4 tokens, more than its capacity"}, ""),
        (CapacityBelow, {"capacity": "takes 3 of 4 tokens, less than it has room for"}, ""),
        (CapacityIgnored, {"capacity": "of 4 tokens, more than its capacity (1.0 · 16 tokens"}, ""),
        (CapacityOfExpertChoice, {"capacity": "takes 5 of 4 tokens"}, ""),
        (DetachedGate, {"gradient": "parameter gate.weight gets no gradient"}, ""),
        (ConstantWeight, {"gradient": "the gradient of gate.weight is 0"}, ""),
        (UnusedParameter, {"gradient": "parameter unused gets no gradient"}, ""),
        (LeakBetweenGroups, {"groups": "eval mode: y of group 0["}, ""),
        (LeakOfCapacity, {"groups": "eval mode: y of group 2["}, ""),
        (NanOnConstantInput, {"finite": "constant "}, ""),
        (OverflowOnHugeInput, {"finite": "huge float32 input"}, ""),
        (OneExpertBreaks, {"finite": "tokens = 16, experts = 1: RuntimeError"}, ""),
        (RandomInEval, {"repeatable": "y["}, "seeded groups autocast save steps"),
        (UnseededNoise, {"seeded": "second pass: y["}, "steps"),
        (WrongFastPath, {"definition": "the loop gives"}, "gradient"),
        (WrongBackward, {"definition": "gradient of the input["}, "gradient"),
        (UnnormalisedGates, {"gates": "sum of the gates["}, ""),
        (TwoTokensInASlot, {"slots": "tokens in a slot[g=0, e=0"}, "definition capacity"),
        (SoftOverTheWrongAxis, {"slots": "sum of D over the tokens"}, ""),
        (WrongCounts, {"counts": "expert_load()"}, "capacity"),
        (HalfPrecision, {"autocast": "torch.bfloat16 under autocast", "finite": "float16"}, ""),
        (ForgottenState, {"save": "after loading: y["}, ""),
        (WrongShape, {"shapes": "is (3, 4, 16), not (3, 16, 4)"}, "counts"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_router_is_caught_and_by_no_check_that_holds(broken, numbers, others):
    causes, consequences = failed(broken)
    assert causes.keys() == numbers.keys()
    assert consequences == set(others.split())
    for check, number in numbers.items():
        assert number in causes[check]


class Crash(SoftmaxTokenChoice):
    """Divides by nothing."""

    def allocate(self, logits):
        raise ZeroDivisionError("no tokens")


def test_a_crash_is_told_once_with_its_own_line():
    report = checked(Crash)
    assert [result.name for result in report.failures] == ["runs"]
    crash = ": random input, training mode: ZeroDivisionError: no tokens, at "
    assert crash in report.failures[0].detail
    assert report.failures[0].detail.endswith('raise ZeroDivisionError("no tokens")')
    assert {result.status for result in report.results[1:]} == {"not run"}


class CrashOfOneSetting(SoftmaxTokenChoice):
    """One slot too many, and none at all without a capacity factor."""

    def capacity(self, logits, k=1):
        return super().capacity(logits, k) + 1


def test_a_setting_that_crashes_does_not_hide_what_else_is_wrong():
    causes, consequences = failed(CrashOfOneSetting, "capacity_factor")
    assert causes.keys() == {"runs", "capacity"}
    assert not consequences
    assert (
        "capacity_factor=None: random input, training mode: TypeError: unsupported operand"
        in causes["runs"]
    )


class BatchNormGate(SoftmaxTokenChoice):
    """Logits that are normalised over the batch, by running statistics in eval mode."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.num_experts)

    def compute_logits(self, tokens, context):
        return self.norm(super().compute_logits(tokens, context).transpose(1, 2)).transpose(1, 2)


def test_batch_statistics_are_checked_in_eval_mode_and_that_is_said():
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
def test_dependence_on_other_images_in_evaluation_is_said(name, options, depends):
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


def test_experts_may_differ_in_capacity_if_the_sum_is_right():
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
def test_other_forms_of_routing_pass(target):
    report = checked(target, "capacity_factor")
    assert report.passed, text(report)


def test_the_table_is_80_columns_wide_and_tells_what_failed():
    lines = text(checked(CapacityAbove)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("capacity failed: " in line for line in lines)
    assert any("No expert takes more tokens than its capacity" in line for line in lines)
    assert "broken fails 1 of 16 checks" in lines[-1]


# State from step to step, and after_step.


class Balanced(Router):
    """A bias of each expert that follows its load, kept as a checkpoint needs it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("bias", torch.zeros(self.num_experts))

    def allocate(self, logits):
        gates = logits.softmax(-1)
        capacity = self.capacity(logits)
        return TokenChoiceRouting.top_k(gates, 1, capacity, scores=gates + self.bias)

    def after_step(self, stats):
        assert stats.keys() == {"load", "demand"}
        for count in stats.values():
            assert (count.shape, count.dtype) == ((self.num_experts,), torch.int64)
        load = stats["demand"].double()
        self.bias -= 1e-6 * (load - load.mean()).sign()


class PlainAttribute(Balanced):
    """A balancing bias in a plain attribute, so small that a few steps do not show it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.bias
        self.bias = torch.zeros(self.num_experts)


class Counter(SoftmaxTokenChoice):
    """A number of steps in a list of the affinity."""

    def after_step(self, stats):
        self.gate.history = [*getattr(self.gate, "history", []), stats["load"]]


class OwnGenerator(SoftmaxTokenChoice):
    """Noise from a generator that no checkpoint saves."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.source = torch.Generator().manual_seed(0)

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        noise = torch.randn(logits.shape, generator=self.source)
        return logits + noise if self.training else logits


class WrongKey(SoftmaxTokenChoice):
    """Asks for a count that is not given."""

    def after_step(self, stats):
        stats["loads"].sum()


def test_state_in_a_buffer_passes():
    report = checked(Balanced)
    assert report.passed, text(report)


@pytest.mark.parametrize(
    ("broken", "attribute"),
    [(PlainAttribute, "bias"), (Counter, "gate.history"), (OwnGenerator, "source")],
)
def test_state_in_an_attribute_is_named_with_the_remedy(broken, attribute):
    report = checked(broken)
    detail = next(result for result in report.failures if result.name == "steps").detail
    assert f"self.{attribute} changes from step to step and is not saved" in detail
    assert f'self.register_buffer("{attribute.rpartition(".")[2]}"' in detail


def test_attributes_that_are_made_anew_alike_are_no_state():
    class Remembers(SoftmaxTokenChoice):
        def allocate(self, logits):
            self.last, self.square = super().allocate(logits), lambda x: x * x
            self.shapes = {"last": [logits.shape], "seen": {1, 2}, "nan": float("nan")}
            return self.last

    report = checked(Remembers)
    assert report.passed, text(report)


def test_an_after_step_that_raises_is_told_by_name_and_line():
    causes, consequences = failed(WrongKey)
    assert causes.keys() == {"steps"}
    assert not consequences
    assert (
        "after_step, given load and demand, (E,) int64 each: KeyError: 'loads'" in causes["steps"]
    )
    assert causes["steps"].endswith('stats["loads"].sum()')


# The user's own line, and the first cause.


class NoRouting(SoftmaxTokenChoice):
    """Returns the gates alone."""

    def allocate(self, logits):
        return logits.softmax(-1)


class TransposedGates(SoftmaxTokenChoice):
    """Gates by expert and token."""

    def allocate(self, logits):
        gates = logits.softmax(-1).transpose(1, 2)
        return TokenChoiceRouting.top_k(gates, 1, self.capacity(logits))


class NanForOneToken(SoftmaxTokenChoice):
    """One token in sixteen has no gates."""

    def allocate(self, logits):
        third = (torch.arange(logits.shape[1]) == 3).unsqueeze(-1)
        gates = logits.softmax(-1).masked_fill(third, math.nan)
        return TokenChoiceRouting.top_k(gates, 1, self.capacity(logits))


class Forgot(SoftmaxTokenChoice):
    """Returns nothing, by a forward of its own."""

    def forward(self, tokens, context=None):
        super().forward(tokens, context)


@pytest.mark.parametrize(
    ("broken", "what", "line"),
    [
        (NoRouting, "returns a Tensor of shape (3, 16, 4), not a Routing", "logits.softmax(-1)"),
        (Forgot, "None is returned, not a Routing", ""),
        (
            TransposedGates,
            "gates of shape (3, 4, 16), not (g, t, E) = (3, 16, 4); the axes are in another order",
            "return TokenChoiceRouting.top_k(gates, 1, self.capacity(logits))",
        ),
        (
            NanForOneToken,
            "gates has 12 of 192 entries that are not finite",
            "gates = logits.softmax(-1).masked_fill(third, math.nan)",
        ),
    ],
)
def test_the_first_cause_is_told_with_the_routers_own_line(broken, what, line):
    report = checked(broken)
    (cause,) = report.failures
    assert cause.name == "runs"
    assert what in cause.detail
    assert cause.detail.endswith(line)
    assert ("test_check.py:" in cause.detail) == bool(line)
    assert {result.status for result in report.results[1:]} == {"not run"}
    assert "broken fails 1 of 16 checks; 15 were not run" in " ".join(text(report).split())


def test_the_operation_that_overflows_is_named():
    causes, _ = failed(OverflowOnHugeInput)
    assert causes["finite"].endswith("exponentials = logits.exp()")


def test_consequences_are_listed_by_name_below_their_cause():
    shown = " ".join(text(checked(RandomInEval)).split())
    assert "repeatable failed: " in shown
    assert ": second pass: y[" in shown
    following = "seeded, groups, autocast, save, steps"
    assert f"Probably because repeatable failed, these failed as well: {following}" in shown
    assert "groups failed" not in shown


class TwoChoices(SoftmaxTokenChoice):
    """Two experts a token, always."""

    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), 2, self.capacity(logits, 2))


def test_a_router_that_needs_two_experts_passes_and_the_case_is_told():
    report = checked(TwoChoices, top_k=2)
    assert report.passed, text(report)
    finite = next(result for result in report.results if result.name == "finite")
    assert finite.detail == "1 expert not run: needs 2 experts or more"


# The oracle itself, by hand.


def test_the_loop_on_a_hand_worked_case():
    """Two tokens, two experts that double and negate, one slot each."""
    d = torch.tensor([[[[1.0], [0.0]], [[0.5], [1.0]]]])
    c = torch.tensor([[[[0.25], [0.0]], [[0.0], [2.0]]]])
    x = torch.tensor([[[4.0], [8.0]]])
    y = reference.moe_output(d, c, x, [lambda v: 2 * v, lambda v: -v])
    # Expert 0 reads 4 + 0.5 · 8 = 8 and gives 16; expert 1 reads 8 and gives -8.
    assert y.tolist() == [[[4.0], [-16.0]]]


@pytest.mark.parametrize(
    ("factor", "tokens", "experts", "choices", "slots"),
    [
        (1.0, 16, 4, 1, 4),
        (1.0, 49, 8, 1, 7),
        (0.7, 16, 4, 2, 6),
        (1.1, 10, 10, 1, 2),
        (8.0, 4, 4, 1, 4),
        (None, 5, 4, 1, 5),
        (0.3, 10, 3, 1, 1),
    ],
)
def test_capacity_by_hand(factor, tokens, experts, choices, slots):
    """0.3 · 10 / 3 is a rounding error above 1 in floating point, and 1 slot all the same."""
    assert math.ceil(0.1 * 3 * 10) == 4  # such errors are real
    assert reference.capacity(factor, tokens, experts, choices) == slots
