"""Failing with numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.check.outcome import Failed, NotFinite, WrongReturn


def require(holds: bool, message: str) -> None:
    """Fail the check unless this holds."""
    if not holds:
        raise Failed(message)


def require_all(holds: Tensor, values: Tensor, what: str, axes: str, wanted: str) -> None:
    """Fail with the first value of `values` for which `holds`, of the same shape, is false."""
    if not holds.all():
        index = tuple((~holds).nonzero()[0].tolist())
        wrong = int((~holds).sum())
        raise Failed(
            f"{what}[{_named(axes, index)}] is {values[index].item():.6g}, not {wanted}; "
            f"wrong in {wrong} of {holds.numel()}"
        )


def require_equal(
    actual: Tensor, expected: Tensor, what: str, axes: str, source: str, tolerance: float = 1e-9
) -> None:
    """Fail where two tensors differ by more than `tolerance` times the largest entry expected.

    Args:
        what: what `actual` is.
        axes: a name for each axis, as "gte".
        source: what `expected` is.
    """
    require(
        actual.shape == expected.shape,
        f"{what} has shape {tuple(actual.shape)}, {source} {tuple(expected.shape)}",
    )
    actual, expected = actual.detach().double(), expected.detach().double()
    # Also false for NaN.
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    close = (actual - expected).abs() <= tolerance * max(scale, 1.0)
    if not close.all():
        difference = torch.nan_to_num((actual - expected).abs(), nan=torch.inf)
        index = tuple(torch.unravel_index(difference.argmax(), actual.shape))
        place = _named(axes, tuple(int(i) for i in index))
        raise Failed(
            f"{what}[{place}] is {actual[index].item():.6g}, {source} gives "
            f"{expected[index].item():.6g}; different in {int((~close).sum())} of {close.numel()}"
        )


def require_finite(value: Tensor, what: str) -> None:
    """Fail where a tensor has NaN or infinite entries."""
    wrong = int((~value.isfinite()).sum())
    if wrong:
        raise NotFinite(f"{what} has {wrong} of {value.numel()} entries that are not finite")


def require_returned(holds: bool, message: str) -> None:
    """Fail the check unless what the component returned is as it should be."""
    if not holds:
        raise WrongReturn(message)


def _named(axes: str, index: tuple[int, ...]) -> str:
    return ", ".join(f"{axis}={i}" for axis, i in zip(axes, index, strict=False))
