"""If several checks fail, the first cause is named with the line of the user's file."""

from __future__ import annotations

import math

import pytest
import torch

from routers import (
    TokenChoiceRouting,
)
from routers.token_choice import SoftmaxTokenChoice
from tests.bench.check.conftest import checked, text


class NoRouting(SoftmaxTokenChoice):
    """Returns only the gates."""

    def allocate(self, logits):
        return logits.softmax(-1)


class TransposedGates(SoftmaxTokenChoice):
    """Gates indexed by expert and token."""

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
    """Has its own forward, which returns nothing."""

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
def test_the_first_cause_is_reported_with_the_line_in_the_router(broken, what, line):
    report = checked(broken)
    (cause,) = report.failures
    assert cause.name == "runs"
    assert what in cause.detail
    assert cause.detail.endswith(line)
    assert ("test_causes.py:" in cause.detail) == bool(line)
    assert {result.status for result in report.results[1:]} == {"not run"}
    assert "broken fails 1 of 16 checks; 15 were not run" in " ".join(text(report).split())


class TwoChoices(SoftmaxTokenChoice):
    """Always chooses two experts per token."""

    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), 2, self.capacity(logits, 2))


def test_a_router_that_needs_two_experts_passes_and_the_skipped_case_is_reported():
    report = checked(TwoChoices, top_k=2)
    assert report.passed, text(report)
    finite = next(result for result in report.results if result.name == "finite")
    assert finite.detail == "1 expert not run: needs 2 experts or more"
