"""Logits that can be routed: what a router refuses before it chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from routers.errors import NonFiniteError


def exceptional(condition: Tensor) -> bool:
    """Answer whether what hardly ever is the case is so; on a GPU the caller waits for it.

    Tensors without values (torch's fake ones, which trace a computation) take the usual way.
    """
    return not isinstance(condition, FakeTensor) and bool(condition)


def require_finite(modes: Sequence[Tensor], router: object = None, what: str = "logit") -> None:
    """Refuse logits that hold NaN or +∞, and tokens without a finite logit.

    A logit of −∞ masks a pair and is allowed. It costs one maximum over each token's logits, and
    one read of a single truth value: on a GPU the caller waits until the logits are computed, once
    a routing; `torch.compile` breaks its graph there.

    Args:
        modes: (g, t, …) each, the logits of each expert mode; mostly one.
        router: what they are of, for the error.
        what: what each is, for its message.

    Raises:
        NonFiniteError: it names the first such token.
    """
    # A maximum is NaN beside a NaN, and −∞ where there is nothing else.
    peaks = [logits.detach().flatten(2).amax(-1) for logits in modes]
    finite = torch.stack(peaks).isfinite().all(0) if len(peaks) > 1 else peaks[0].isfinite()
    if exceptional((~finite).any()):
        raise NonFiniteError(_first_fault(modes, finite, what), router)


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
            value = own[tuple(at)].item()
            return f"{where} has the {what} {value} for {place}{others}"
    return f"{where} has no finite {what}, only −∞{others}"


def refusing_non_finite(allocate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a router's `allocate` or `allocate_noisy`: it refuses the logits that it goes by.

    See `require_finite`, which reads the last of its tensors.
    """

    @wraps(allocate)
    def checked(self: Any, logits: Tensor, *noisy: Tensor) -> Any:
        require_finite(self.modes(noisy[0] if noisy else logits), self)
        return allocate(self, logits, *noisy)

    return checked
