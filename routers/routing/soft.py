"""Every slot reads a mixture of all tokens, every token a mixture of all slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from routers.finite import exceptional
from routers.routing.base import SeenByAll


@dataclass(frozen=True, eq=False)
class SoftRouting(SeenByAll):
    """Dense dispatch and combine tensors (2308.00951).

    Attributes:
        dispatch_weights: (g, t, E, s), each slot's distribution over the tokens.
        slot_weights: (g, t, E, s), each token's distribution over all slots.
    """

    dispatch_weights: Tensor
    slot_weights: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor) -> Self:
        """Dispatch by a softmax over the tokens, combine by one over all slots.

        A pair at −∞ has weight 0 in both; a slot that has no other reads nothing. Whether there is
        such a slot is asked once, for which the caller waits for a GPU.

        Args:
            logits: (g, t, E, s).
        """
        slot_weights = logits.flatten(2).softmax(-1).view_as(logits)
        empty = logits.detach().amax(1, keepdim=True) == -torch.inf
        if exceptional(empty.any()):
            # Not NaN before it is masked: its gradient would be, too.
            dispatch = logits.masked_fill(empty, 0).softmax(1).masked_fill(empty, 0)
        else:
            dispatch = logits.softmax(1)
        return cls(slot_weights.sum(-1), dispatch, slot_weights)

    @property
    def num_slots(self) -> int:
        return self.dispatch_weights.shape[-1]

    def dispatch(self, x: Tensor) -> Tensor:
        weights = self.dispatch_weights.flatten(2).transpose(1, 2).to(x.dtype)
        slots = torch.bmm(weights, x.flatten(2))
        groups = x.shape[0]
        return slots.view(groups, self.num_experts, self.num_slots, *x.shape[2:]).transpose(0, 1)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        shape = slot_outputs.shape[3:]
        slots = slot_outputs.transpose(0, 1).flatten(3).flatten(1, 2)
        return torch.bmm(self.slot_weights.flatten(2).to(slots.dtype), slots).unflatten(2, shape)

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, slot_weights=self.slot_weights * factors.unsqueeze(-1))

    def dispatch_tensor(self) -> Tensor:
        return self.dispatch_weights

    def combine_tensor(self) -> Tensor:
        return self.slot_weights

    def combine_weights(self) -> Tensor:
        return self.slot_weights.sum(-1)
