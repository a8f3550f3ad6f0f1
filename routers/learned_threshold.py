"""A threshold for evaluation that experts learn while they choose among tokens in training."""

from __future__ import annotations

import torch
from torch import Tensor

from routers.router import Router
from routers.routing import Routing


class LearnedThreshold(Router):
    """The base of routers that keep the score from which an expert takes a token.

    It is an exponential mean over the steps of the lowest score that was taken, corrected for its
    start at 0; a step's is the mean over its groups and micro-batches. Before the first step it
    is 0.

    Attributes:
        threshold: (E,), a buffer, the mean before its correction.
        updates: (), long, a buffer, steps that it was taken over.
        decay: share of the last threshold that the next one keeps.
    """

    needs_sums = True
    threshold: Tensor
    updates: Tensor
    decay: float

    def keep_threshold(self) -> None:
        """Make the buffers."""
        self.register_buffer("threshold", torch.zeros(self.num_experts))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def cutoff(self, scores: Tensor) -> Tensor:
        """Return (E,): the corrected threshold, in the type of the scores."""
        # A scalar of the device decides, so that nothing waits for it.
        corrected = 1 - self.decay ** self.updates.to(scores.dtype)
        return (self.threshold / corrected.clamp(min=1e-12)).to(scores.dtype)

    def note_lowest(self, routing: Routing, scores: Tensor, share: int) -> None:
        """Note the s-th largest score of each expert: (g, t, E), of each group by itself."""
        lowest = scores.detach().topk(share, dim=1).values[:, -1]
        routing.statistics["groups"] = lowest.new_full((), len(lowest))
        routing.statistics["lowest"] = lowest.sum(0)

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        if "lowest" in stats:
            lowest = stats["lowest"] / stats["groups"]
            self.threshold.lerp_(lowest.to(self.threshold.dtype), 1 - self.decay)
            self.updates += 1
