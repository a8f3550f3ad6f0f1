"""The MoE layer: a router and experts in place of a block's MLP."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bench.model.experts import Experts
from bench.model.passes import PassState
from routers import RequestError, Router

Groups = Literal["image", "batch"] | int


class MoELayer(nn.Module):
    """Routes tokens to experts and joins what they return.

    Args:
        router: decides who processes what.
        experts: what processes.
        groups: what is routed together: the tokens of an "image", of the whole "batch", or of
            groups of this many tokens, which must divide those of the batch.
    """

    def __init__(self, router: Router, experts: Experts, groups: Groups = "image") -> None:
        super().__init__()
        self.router, self.experts, self.groups = router, experts, groups
        self.pass_state = PassState()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, …, d) -> (batch, …, d); the axes between are tokens."""
        grouped = self._grouped(x)
        state = self.pass_state
        routing = self.router(grouped, state.context_of_next_layer())
        if state.routings is not None:
            state.routings.append(routing)
        y = self.experts.apply(routing, grouped)
        return y.to(x.dtype).reshape(x.shape)

    def _grouped(self, x: Tensor) -> Tensor:
        """(batch, …, d) -> (g, t, d)."""
        if self.groups == "image":
            return x.flatten(1, -2)
        if self.groups == "batch":
            return x.reshape(1, -1, x.shape[-1])
        tokens = x.shape[:-1].numel()
        if tokens % self.groups:
            raise RequestError(
                f"model.groups = {self.groups} does not divide the {tokens} tokens of a batch; "
                "choose a divisor, or 'image' or 'batch'"
            )
        return x.reshape(-1, self.groups, x.shape[-1])

    def extra_repr(self) -> str:
        return f"groups={self.groups!r}"
