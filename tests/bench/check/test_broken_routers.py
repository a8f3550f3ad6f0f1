"""Routers with one deliberate fault each, and the check that must catch it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from routers import (
    ExpertChoiceRouting,
    Router,
    RouterContext,
    SoftRouting,
    TokenChoiceRouting,
)
from routers.soft import SoftMoE
from routers.token_choice import SoftmaxTokenChoice
from tests.bench.check.conftest import checked, failed, text


class CapacityAbove(SoftmaxTokenChoice):
    """One slot more than the capacity."""

    def capacity(self, logits, k=1):
        slots = super().capacity(logits, k)
        return None if slots is None else min(slots + 1, logits.shape[1])


class CapacityBelow(SoftmaxTokenChoice):
    """One slot less: drops tokens for which there is room."""

    def capacity(self, logits, k=1):
        slots = super().capacity(logits, k)
        return None if slots is None else max(slots - 1, 1)


class CapacityIgnored(SoftmaxTokenChoice):
    """Never drops anything, whatever the capacity."""

    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), self.top_k, None)


class CapacityOfExpertChoice(Router):
    """Experts take one token too many."""

    def allocate(self, logits):
        slots = self.capacity(logits)
        more = None if slots is None else min(slots + 1, logits.shape[1])
        return ExpertChoiceRouting.top_tokens(logits.softmax(-1), more)


class DetachedGate(SoftmaxTokenChoice):
    """The gates are detached from the graph."""

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
    """A temperature that is never used."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.unused = nn.Parameter(torch.ones(()))


class LeakBetweenGroups(SoftmaxTokenChoice):
    """Logits are centred over the whole batch."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        return logits - logits.mean((0, 1))


class LeakOfCapacity(SoftmaxTokenChoice):
    """Groups share one queue, so that tokens of one group displace those of another."""

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
    """Divides by the standard deviation over the tokens."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        centred = logits - logits.mean(1, keepdim=True)
        return centred / centred.square().mean(1, keepdim=True).sqrt()


class OverflowOnHugeInput(SoftmaxTokenChoice):
    """A softmax that does not subtract the largest logit."""

    def allocate(self, logits):
        exponentials = logits.exp()
        gates = exponentials / exponentials.sum(-1, keepdim=True)
        return TokenChoiceRouting.top_k(gates, self.top_k, self.capacity(logits, self.top_k))


class OneExpertBreaks(SoftmaxTokenChoice):
    """Uses the runner-up, which may not exist."""

    def compute_logits(self, tokens, context):
        logits = super().compute_logits(tokens, context)
        return logits - logits.topk(2, -1).values[..., 1:].detach()


class RandomInEval(SoftmaxTokenChoice):
    """Noise that is added even in evaluation."""

    def compute_logits(self, tokens, context):
        return super().compute_logits(tokens, context) + torch.randn(self.num_experts)


class UnseededNoise(SoftmaxTokenChoice):
    """Training noise that does not come from the context's generator."""

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
    """A fast path with the right value whose gates get no gradient."""

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
    """Sigmoids, which do not sum to 1."""

    def allocate(self, logits):
        gates = logits.sigmoid()
        return TokenChoiceRouting.top_k(gates, self.top_k, self.capacity(logits, self.top_k))


class TwoTokensInASlot(SoftmaxTokenChoice):
    """Every token is first in the queue."""

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
    """Claims that nothing is dropped."""

    def allocate(self, logits):
        capacity = self.capacity(logits, self.top_k)
        return Miscounted.top_k(logits.softmax(-1), self.top_k, capacity)


class HalfPrecision(SoftmaxTokenChoice):
    """Computes in the precision of autocast."""

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
    """Weights indexed by expert and token instead of token and expert."""

    def combine_weights(self):
        return super().combine_weights().transpose(1, 2)


class WrongShape(SoftmaxTokenChoice):
    """An axis in the wrong position."""

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
def test_a_broken_router_fails_exactly_the_checks_that_it_violates(broken, numbers, others):
    causes, consequences = failed(broken)
    assert causes.keys() == numbers.keys()
    assert consequences == set(others.split())
    for check, number in numbers.items():
        assert number in causes[check]


def test_the_operation_that_overflows_is_named():
    causes, _ = failed(OverflowOnHugeInput)
    assert causes["finite"].endswith("exponentials = logits.exp()")


def test_consequences_are_listed_only_by_name_below_their_cause():
    shown = " ".join(text(checked(RandomInEval)).split())
    assert "repeatable failed: " in shown
    assert ": second pass: y[" in shown
    following = "seeded, groups, autocast, save, steps"
    assert f"Probably because repeatable failed, these failed as well: {following}" in shown
    assert "groups failed" not in shown


def test_the_table_is_80_columns_wide_and_says_what_failed():
    lines = text(checked(CapacityAbove)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("capacity failed: " in line for line in lines)
    assert any("No expert takes more tokens than its capacity" in line for line in lines)
    assert "broken fails 1 of 16 checks" in lines[-1]
