"""The reference that routings are compared with, checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bench.check import reference


def test_the_reference_loop_on_a_case_worked_by_hand():
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
    """0.3 · 10 / 3 is a rounding error above 1 in floating point, but still gives 1 slot."""
    assert math.ceil(0.1 * 3 * 10) == 4  # the rounding error is real
    assert reference.capacity(factor, tokens, experts, choices) == slots
