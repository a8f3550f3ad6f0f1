"""The definition, written a second time as plainly as possible: what fast paths must equal.

Axes: g groups, t tokens, d width, E experts, s slots of an expert. Nothing here calls a method of
a router or of experts; only tensors come in.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.check.outcome import Failed, NotFinite

Expert = Callable[[Tensor], Tensor]


def moe_output(d: Tensor, c: Tensor, x: Tensor, experts: list[Expert]) -> Tensor:
    """Compute y[g,t] = Σ_e,s C[g,t,e,s] · expert_e(Σ_t D[g,t,e,s] · x[g,t]), slot by slot.

    The dispatch tensor D and the combine tensor C are (g, t, E, s), the tokens x (g, t, …); the
    experts are E functions of a token.
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


def capacity(factor: float | None, tokens: int, experts: int, choices: int) -> int:
    """Return the most tokens of a group that one expert may take.

    ceil(factor · t · k / E), at most t; k = 1 if experts choose; t if the factor is None.
    """
    if factor is None:
        return tokens
    return min(tokens, math.ceil(factor * tokens * choices / experts - 1e-9))


def require(holds: bool, message: str, failure: type[Failed] = Failed) -> None:
    """Fail the check unless this holds."""
    if not holds:
        raise failure(message)


def require_all(holds: Tensor, values: Tensor, what: str, axes: str, wanted: str) -> None:
    """Fail with the first value of `values` for which `holds`, of the same shape, is false."""
    if not holds.all():
        index = tuple((~holds).nonzero()[0].tolist())
        raise Failed(
            f"{what}[{_named(axes, index)}] is {values[index].item():.6g}, not {wanted}; "
            f"wrong in {int((~holds).sum())} of {holds.numel()}"
        )


def require_equal(
    actual: Tensor, expected: Tensor, what: str, axes: str, source: str, tolerance: float = 1e-9
) -> None:
    """Fail if two tensors differ by more than `tolerance` times the largest entry expected.

    Args:
        what: a name for `actual`, for the message.
        axes: a name for each axis, as "gte".
        source: a name for `expected`, for the message.
    """
    require(
        actual.shape == expected.shape,
        f"{what} has shape {tuple(actual.shape)}, {source} {tuple(expected.shape)}",
    )
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    # Also false for NaN.
    close = (actual - expected).abs() <= tolerance * max(scale, 1.0)
    if not close.all():
        difference = torch.nan_to_num((actual - expected).abs(), nan=torch.inf)
        index = tuple(torch.unravel_index(difference.argmax(), actual.shape))
        place = _named(axes, tuple(int(i) for i in index))
        raise Failed(
            f"{what}[{place}] is {actual[index].item():.6g}, {source} gives "
            f"{expected[index].item():.6g}; different in {int((~close).sum())} of {close.numel()}"
        )


def require_same(
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    what: str,
    axes: str,
    source: str,
    tolerance: float = 1e-9,
) -> None:
    """Apply `require_equal` to tensors by name; the name takes the place of {} in `what`."""
    for name, value in actual.items():
        require_equal(value, expected[name], what.format(name), axes, source, tolerance)


def require_finite(value: Tensor, what: str) -> None:
    """Fail if a tensor has NaN or infinite entries."""
    wrong = int((~value.isfinite()).sum())
    message = f"{what} has {wrong} of {value.numel()} entries that are not finite"
    require(not wrong, message, NotFinite)


def _named(axes: str, index: tuple[int, ...]) -> str:
    return ", ".join(f"{axis}={i}" for axis, i in zip(axes, index, strict=False))
