"""Scores of experts, and the choice of the highest, the lowest index first among equal ones.

`torch.topk` promises no order among ties, and a softmax underflows to ties where logits differ.
The functions here choose the same on every device.

A vision router has many tokens and few experts; reducing over a short last axis leaves the vector
units of a CPU idle. With the tokens last, a softmax over 8 experts is 14 times faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from routers.finite import exceptional


@torch.no_grad()
def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k highest scores of each row, the lowest index first among equal ones.

    One choice is a maximum, whose index is the first by torch's promise. More are a top-k, and
    where it meets equal scores a second one, which ranks them by their index. It never waits for a
    GPU: there it takes the second one always.

    Args:
        scores: (…, n) without NaN.
        k: at most n.

    Returns:
        The scores, (…, k), the highest first, and their indices, (…, k) long.
    """
    if k == 1:
        values, index = scores.max(-1, keepdim=True)
        return values, index
    if scores.is_cpu:
        values, index = scores.topk(min(k + 1, scores.shape[-1]))
        if not exceptional((values[..., 1:] == values[..., :-1]).any()):
            return values[..., :k].contiguous(), index[..., :k].contiguous()
    return by_boundary(scores, k)


def by_boundary(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find what `highest` does: all above the k-th score, then the first that equal it."""
    length = scores.shape[-1]
    boundary = scores.topk(k, sorted=False).values.amin(-1, keepdim=True)
    index = torch.arange(length, 0, -1, device=scores.device, dtype=torch.int32)
    on_boundary = torch.where(scores == boundary, index, 0)
    chosen = torch.where(scores > boundary, index + length, on_boundary).topk(k).indices
    # They come in the order of their indices, which a stable sort keeps among equal scores.
    values, order = scores.gather(-1, chosen).sort(stable=True, dim=-1, descending=True)
    return values, chosen.gather(-1, order)


@torch.no_grad()
def without_underflow(probabilities: Tensor, logarithms: Tensor) -> Tensor:
    """Return scores in the order of the probabilities, also where these underflow.

    A probability that float arithmetic cannot hold to its full precision is replaced by its
    logarithm, which is negative: below all others, and in order.
    """
    normal = probabilities >= torch.finfo(probabilities.dtype).tiny
    return torch.where(normal, probabilities, logarithms)


def expert_softmax(logits: Tensor) -> Tensor:
    """Compute a softmax over the experts: (g, t, E) -> (g, t, E), stored with the tokens last."""
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
