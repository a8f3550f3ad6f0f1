"""Every expert runs on every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from routers.routing.base import Routing


@dataclass(frozen=True, eq=False)
class MixtureRouting(Routing):
    """A dense mixture: slot s of every expert holds token s, weighted by the token's gate.

    Attributes:
        gates: (g, t, E), also the combine weights.
    """

    constant_load: ClassVar[bool] = True

    @property
    def num_slots(self) -> int:
        return self.num_tokens

    def dispatch(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.num_experts, *x.shape)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        y = torch.einsum(
            "gte,egtd->gtd", self.gates.to(slot_outputs.dtype), slot_outputs.flatten(3)
        )
        return y.unflatten(2, slot_outputs.shape[3:])

    def dispatch_tensor(self) -> Tensor:
        eye = torch.eye(self.num_tokens, dtype=self.gates.dtype, device=self.gates.device)
        shape = (self.gates.shape[0], self.num_tokens, self.num_experts, self.num_tokens)
        return eye.view(1, self.num_tokens, 1, self.num_tokens).expand(shape)

    def combine_tensor(self) -> Tensor:
        return self.gates.unsqueeze(-1) * self.dispatch_tensor()

    def combine_weights(self) -> Tensor:
        return self.gates
