"""Every expert runs on every token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from routers.routing.base import SeenByAll


@dataclass(frozen=True, eq=False)
class MixtureRouting(SeenByAll):
    """A dense mixture: slot s of every expert holds token s.

    Attributes:
        weights: (g, t, E), the combine weights; the gates where not given.
        levels: (g, t, E_l) of each expert mode, where the weights are their outer product; None
            where they are not.
    """

    weights: Tensor = None  # type: ignore[assignment]
    levels: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "weights", self.gates)

    @classmethod
    def from_levels(cls, levels: tuple[Tensor, ...]) -> Self:
        """Make gates as the outer product of those of each expert mode, the first one slowest.

        Args:
            levels: (g, t, E_l) each; E is their product.
        """
        gates = levels[0]
        for level in levels[1:]:
            gates = (gates.unsqueeze(-1) * level.unsqueeze(-2)).flatten(-2)
        return cls(gates, gates, levels)

    @property
    def num_slots(self) -> int:
        return self.num_tokens

    def dispatch(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.num_experts, *x.shape)

    def combine(self, slot_outputs: Tensor) -> Tensor:
        weights = self.weights.to(slot_outputs.dtype)
        # Probabilities that experts give in float32 stay so under autocast.
        with torch.autocast(slot_outputs.device.type, enabled=False):
            y = torch.einsum("gte,egtd->gtd", weights, slot_outputs.flatten(3))
        return y.unflatten(2, slot_outputs.shape[3:])

    def reweighted(self, factors: Tensor) -> Self:
        return replace(self, weights=self.weights * factors, levels=None)

    def dispatch_tensor(self) -> Tensor:
        eye = torch.eye(self.num_tokens, dtype=self.gates.dtype, device=self.gates.device)
        shape = (self.gates.shape[0], self.num_tokens, self.num_experts, self.num_tokens)
        return eye.view(1, self.num_tokens, 1, self.num_tokens).expand(shape)

    def combine_tensor(self) -> Tensor:
        return self.weights.unsqueeze(-1) * self.dispatch_tensor()

    def combine_weights(self) -> Tensor:
        return self.weights
