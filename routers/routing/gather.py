"""Moving rows between tokens and slots with gathers alone, forward and backward.

Where each slot holds at most one token and each token's choices fill at most K slots, both
directions of the map are known as indices. So the gradient of a gather is a gather along the
other direction, and nothing is ever scattered, which is slower and on GPUs not deterministic.

Rows: N tokens of all groups, M slots of all experts. `-1` in an index means "none".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` with zeros where `index` is -1.

    Args:
        rows: (R, d).
        index: (…) long, -1 for none.
    """
    flat = index.reshape(-1)
    gathered = rows.index_select(0, flat.clamp(min=0))
    gathered.masked_fill_((flat < 0).unsqueeze(1), 0)
    return gathered.view(*index.shape, rows.shape[1])


class DispatchRows(torch.autograd.Function):
    """Token rows to slots: (N, d) -> (M, d).

    token_of_slot (M,) and slot_of_choice (N, K) are each other's inverse.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_choice)
        return gather_rows(x, token_of_slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot_of_choice,) = ctx.saved_tensors
        return _sum_of_choices(gather_rows(grad, slot_of_choice)), None, None


class CombineRows(torch.autograd.Function):
    """Slot rows to tokens, weighted: (M, d), (N, K) -> (N, d)."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, weights: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor
    ) -> Tensor:
        chosen = gather_rows(out, slot_of_choice)
        ctx.save_for_backward(chosen, weights, token_of_slot, slot_of_choice)
        return _weighted_sum(chosen, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        chosen, weights, token_of_slot, slot_of_choice = ctx.saved_tensors
        grad_weights = torch.linalg.vecdot(chosen, grad.unsqueeze(1)).to(weights.dtype)
        slot_weights = _weights_of_slots(weights, slot_of_choice, token_of_slot.shape[0])
        grad_out = gather_rows(grad, token_of_slot)
        grad_out.mul_(slot_weights.to(grad_out.dtype).unsqueeze(1))
        return grad_out, grad_weights, None, None


def _sum_of_choices(rows: Tensor) -> Tensor:
    return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1)


def _weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    weights = weights.to(rows.dtype)
    if rows.shape[1] == 1:
        return rows.squeeze(1) * weights
    return torch.einsum("nkd,nk->nd", rows, weights)


def _weights_of_slots(weights: Tensor, slot_of_choice: Tensor, slots: int) -> Tensor:
    """(M,): the combine weight of the choice that fills each slot; 0 where unused.

    Every dropped choice writes to one spare slot at the end, which is cut off again.
    """
    by_slot = weights.new_zeros(slots + 1)
    index = torch.where(slot_of_choice < 0, slots, slot_of_choice)
    return by_slot.index_copy_(0, index.reshape(-1), weights.reshape(-1))[:slots]
