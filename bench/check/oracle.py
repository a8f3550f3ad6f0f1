"""The definition, written a second time and as plainly as can be: what fast paths must equal.

Axes: g groups, t tokens, d width, E experts, s slots of an expert. Nothing here calls a method of
a router or of experts; only tensors come in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Expert = Callable[[Tensor], Tensor]


def moe_output(d: Tensor, c: Tensor, x: Tensor, experts: list[Expert]) -> Tensor:
    """y[g,t] = Σ_e,s C[g,t,e,s] · expert_e(Σ_t D[g,t,e,s] · x[g,t]), one slot after the other.

    Args:
        d: (g, t, E, s), the dispatch tensor.
        c: (g, t, E, s), the combine tensor.
        x: (g, t, …).
        experts: E functions of a token's shape.
    """
    groups, tokens, _, slots = d.shape
    outputs = []
    for g in range(groups):
        y = [torch.zeros((), dtype=x.dtype)] * tokens
        for e, expert in enumerate(experts):
            for s in range(slots):
                slot = torch.zeros_like(x[g, 0])
                for t in range(tokens):
                    slot = slot + d[g, t, e, s] * x[g, t]
                out = expert(slot)
                for t in range(tokens):
                    y[t] = y[t] + c[g, t, e, s] * out
        outputs.append(torch.stack(y))
    return torch.stack(outputs)


def mlp(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Expert) -> Expert:
    """One expert: a two-layer MLP on one vector, (d,) -> (d,)."""
    return lambda x: activation(x @ w1 + b1) @ w2 + b2


def capacity(factor: float | None, tokens: int, experts: int, choices: int) -> int:
    """The most tokens of a group that one expert may take.

    ceil(factor · t · k / E), at most t; k = 1 where experts choose; t where the factor is None.
    """
    if factor is None:
        return tokens
    return min(tokens, math.ceil(factor * tokens * choices / experts - 1e-9))


def soft_slots(factor: float, tokens: int, experts: int) -> int:
    """Slots of each expert in soft routing: round(factor · t / E), at least 1."""
    return max(1, round(factor * tokens / experts))
