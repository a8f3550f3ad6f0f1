"""State that a router keeps from step to step, and `after_step`."""

from __future__ import annotations

import pytest
import torch

from routers import (
    Router,
    TokenChoiceRouting,
)
from routers.token_choice import SoftmaxTokenChoice
from tests.bench.check.conftest import checked, failed, text


class Balanced(Router):
    """A bias per expert that follows its load, stored so that checkpoints contain it."""

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
    """A balancing bias in a plain attribute, so small that a few steps do not reveal it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.bias
        self.bias = torch.zeros(self.num_experts)


class Counter(SoftmaxTokenChoice):
    """A step count in a list of the affinity."""

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
    """Reads a count that does not exist."""

    def after_step(self, stats):
        stats["loads"].sum()


def test_state_in_a_buffer_passes():
    report = checked(Balanced)
    assert report.passed, text(report)


@pytest.mark.parametrize(
    ("broken", "attribute"),
    [(PlainAttribute, "bias"), (Counter, "gate.history"), (OwnGenerator, "source")],
)
def test_state_in_a_plain_attribute_is_named_with_the_remedy(broken, attribute):
    report = checked(broken)
    detail = next(result for result in report.failures if result.name == "steps").detail
    assert f"self.{attribute} changes from step to step and is not saved" in detail
    assert f'self.register_buffer("{attribute.rpartition(".")[2]}"' in detail


def test_attributes_recreated_with_equal_values_are_not_state():
    class Remembers(SoftmaxTokenChoice):
        def allocate(self, logits):
            self.last, self.square = super().allocate(logits), lambda x: x * x
            self.shapes = {"last": [logits.shape], "seen": {1, 2}, "nan": float("nan")}
            return self.last

    report = checked(Remembers)
    assert report.passed, text(report)


def test_an_after_step_that_raises_is_reported_by_name_and_line():
    causes, consequences = failed(WrongKey)
    assert causes.keys() == {"steps"}
    assert not consequences
    assert (
        "after_step, given load and demand, (E,) int64 each: KeyError: 'loads'" in causes["steps"]
    )
    assert causes["steps"].endswith('stats["loads"].sum()')
