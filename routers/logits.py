"""Logits: which of them can be routed, their softmax, and the choice of the highest.

`torch.topk` promises no order among ties, and a softmax underflows to ties where logits differ.
The functions here choose the same on every device: the lowest index first among equal ones.

A vision router has many tokens and few experts; reducing over a short last axis leaves the vector
units of a CPU idle. With the tokens last, a softmax over 8 experts is 14 times faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from routers.errors import NonFiniteError


def readable(tensor: Tensor) -> bool:
    """Tell whether the host may read a value: on a GPU it waits, and torch's compiler cannot."""
    return tensor.is_cpu and not torch.compiler.is_compiling()


def exceptional(condition: Tensor, *, unread: bool = True) -> bool:
    """Answer whether what hardly ever is the case is so, or `unread` where that cannot be read.

    Tensors without values (torch's fake ones, which trace a computation) take the usual way.
    """
    if not readable(condition):
        return unread
    return not isinstance(condition, FakeTensor) and bool(condition)


def filled(values: Sequence[float], like: Tensor) -> Tensor:
    """Make an (n,) tensor of the type and device of another, without a copy that a GPU waits for.

    It is filled where it lies, once for each run of equal values.
    """
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    return torch.cat([like.new_full((count,), value) for value, count in runs])


def require_finite(
    modes: Sequence[Tensor], router: object = None, what: str = "logit"
) -> Tensor | None:
    """Refuse logits that hold NaN or +∞, and tokens without a finite logit.

    A logit of −∞ masks a pair and is allowed. It costs one maximum over each token's logits.
    Nothing waits for a GPU: there, and where torch's compiler traces, nothing is raised.

    Args:
        modes: (g, t, …) each, the logits of each expert mode; mostly one.
        router: what they are of, for the error.

    Returns:
        A scalar, bool, whether they had to be refused, where it was not read; None where it was.

    Raises:
        NonFiniteError: it names the first such token.
    """
    # A maximum is NaN beside a NaN, and −∞ where there is nothing else.
    peaks = [logits.detach().flatten(2).amax(-1) for logits in modes]
    finite = torch.stack(peaks).isfinite().all(0) if len(peaks) > 1 else peaks[0].isfinite()
    fault = (~finite).any()
    if exceptional(fault, unread=False):
        raise NonFiniteError(_first_fault(modes, finite, what), router)
    return None if readable(fault) else fault


def _first_fault(modes: Sequence[Tensor], finite: Tensor, what: str) -> str:
    group, token = (~finite).nonzero()[0].tolist()
    where = f"token {token} of group {group}"
    more = int((~finite).sum()) - 1
    others = f"; so have {more} more of {finite.numel()} tokens" if more else ""
    for number, logits in enumerate(modes):
        own = logits[group, token]
        wrong = own.isnan() | own.isposinf()
        if wrong.any():
            at = wrong.nonzero()[0].tolist()
            place = f"expert {at[0]}" + "".join(f", slot {slot}" for slot in at[1:])
            place += f" of mode {number}" if len(modes) > 1 else ""
            return f"{where} has the {what} {own[tuple(at)].item()} for {place}{others}"
    return f"{where} has no finite {what}, only −∞{others}"


def refusing_non_finite(allocate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a router's `allocate` or `allocate_noisy`: it refuses the logits that it goes by."""

    @wraps(allocate)
    def checked(self: Any, logits: Tensor, *noisy: Tensor) -> Any:
        fault = require_finite(self.modes(noisy[0] if noisy else logits), self)
        routing = allocate(self, logits, *noisy)
        return routing if fault is None else dataclasses.replace(routing, refused=fault)

    return checked


@torch.no_grad()
def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k highest scores of each row, the lowest index first among equal ones.

    One choice is a maximum, whose index is the first by torch's promise. More are a top-k, and
    where it meets equal scores a second one, which ranks them by their index. Where it cannot read
    whether it does, as on a GPU, it takes the second one always.

    Args:
        scores: (…, n) without NaN, n at least k.

    Returns:
        The scores, (…, k), the highest first, and their indices, (…, k) long.
    """
    if k == 1:
        values, index = scores.max(-1, keepdim=True)
        return values, index
    if readable(scores):
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


def expert_softmax(logits: Tensor) -> Tensor:
    """Compute a softmax over the experts: (g, t, E) -> (g, t, E), stored with the tokens last."""
    return logits.transpose(1, 2).contiguous().softmax(1).transpose(1, 2)


@torch.no_grad()
def without_underflow(probabilities: Tensor, logarithms: Tensor) -> Tensor:
    """Return scores in the order of the probabilities, also where these underflow.

    A probability that float arithmetic cannot hold to its full precision is replaced by its
    logarithm, which is negative: below all others, and in order.
    """
    normal = probabilities >= torch.finfo(probabilities.dtype).tiny
    return torch.where(normal, probabilities, logarithms)


def sigmoid_shares(logits: Tensor) -> Tensor:
    """Divide each expert's σ(L) by their sum, also where all of them underflow: (g, t, E)."""
    return expert_softmax(F.logsigmoid(logits))


@torch.no_grad()
def ranking(logits: Tensor, gates: Tensor) -> Tensor:
    """Return the gates, the softmax of (g, t, E) logits; their logarithms where they underflow."""
    if not exceptional((gates < torch.finfo(gates.dtype).tiny).any()):
        return gates.detach()
    # A token's highest gate is at least 1/E, and gives what was taken off all its logits.
    shift = logits.amax(-1, keepdim=True) - gates.amax(-1, keepdim=True).log()
    return without_underflow(gates, logits - shift)
