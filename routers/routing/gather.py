"""Moving rows between tokens and slots with gathers only, forward and backward.

If each slot holds at most one token and each token's choices fill at most K slots, both directions
of the map are known as indices. So the gradient of a gather is a gather in the other direction, and
nothing is ever scattered, which is slower and, on GPUs, not deterministic.

Rows: N tokens of all groups, M slots of all experts. An index one past the last row means "none".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Return `rows[index]` of (R, d) rows, with zeros where the index is R, one past the last."""
    # A spare row of zeros is faster than masking afterwards, and keeps a NaN where it belongs.
    spare = torch.cat((rows, rows.new_zeros(1, rows.shape[1])))
    return spare.index_select(0, index.reshape(-1)).view(*index.shape, rows.shape[1])


def inverse_rows(index: Tensor, rows: int, none: int) -> Tensor:
    """Invert an (N, K) index that names each row at most once: (rows,), n or `none` for each row.

    An entry of the index that equals `rows` names no row.
    """
    inverse = index.new_full((rows + 1,), none)
    entry = torch.arange(index.shape[0], device=index.device).unsqueeze(1).expand_as(index)
    return inverse.index_copy_(0, index.reshape(-1), entry.reshape(-1))[:rows]


class DispatchRows(torch.autograd.Function):
    """Token rows to slots: (N, d) -> (M, d).

    token_of_slot, (M,), and slot_of_choice, (N, K), are each other's inverse.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_choice)
        return gather_rows(x, token_of_slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot_of_choice,) = ctx.saved_tensors
        rows = gather_rows(grad, slot_of_choice)
        return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1), None, None


class CombineRows(torch.autograd.Function):
    """Slot rows to tokens, weighted: (M, d), (N, K) -> (N, d)."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, weights: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor
    ) -> Tensor:
        chosen = gather_rows(out, slot_of_choice)
        ctx.save_for_backward(chosen, weights, token_of_slot, slot_of_choice)
        weights = weights.to(chosen.dtype)
        if chosen.shape[1] == 1:
            return chosen.squeeze(1) * weights
        # Autocast would return a type that the gradient of float32 rows could not go back through.
        with torch.autocast(chosen.device.type, enabled=False):
            return torch.einsum("nkd,nk->nd", chosen, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        chosen, weights, token_of_slot, slot_of_choice = ctx.saved_tensors
        grad_weights = torch.linalg.vecdot(chosen, grad.unsqueeze(1)).to(weights.dtype)
        # The combine weight of the choice that fills each slot; 0 where unused.
        slot_weights = weights.new_zeros(len(token_of_slot) + 1)
        slot_weights.index_copy_(0, slot_of_choice.reshape(-1), weights.reshape(-1))
        grad_out = gather_rows(grad, token_of_slot)
        grad_out.mul_(slot_weights[:-1].to(grad_out.dtype).unsqueeze(1))
        return grad_out, grad_weights, None, None
