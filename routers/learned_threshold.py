"""An evaluation threshold that experts learn while they choose tokens in training."""

from __future__ import annotations

import torch
from torch import Tensor

from routers.router import Router
from routers.routing import Routing


class LearnedThreshold(Router):
    """Base class of routers that learn the lowest score at which an expert takes a token.

    This threshold is an exponential mean, over the steps, of the lowest score taken, corrected for
    its start at 0; each step counts with the mean over its groups and micro-batches. Before the
    first step it is 0.

    Attributes:
        threshold: (E,), a buffer, the mean before its correction.
        updates: () long, a buffer, the number of steps in the mean.
        decay: share of the old threshold kept at each update.
    """

    needs_sums = True
    threshold: Tensor
    updates: Tensor
    decay: float

    def keep_threshold(self) -> None:
        """Create the buffers."""
        self.register_buffer("threshold", torch.zeros(self.num_experts))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def cutoff(self, scores: Tensor) -> Tensor:
        """Return the corrected threshold, (E,), in the dtype of the scores."""
        # The number of updates stays on the device, so that nothing waits for it.
        corrected = 1 - self.decay ** self.updates.to(scores.dtype)
        return (self.threshold / corrected.clamp(min=1e-12)).to(scores.dtype)

    def note_lowest(self, routing: Routing, scores: Tensor, share: int) -> None:
        """Record the `share`-th largest of each expert's scores, (g, t, E), in each group."""
        lowest = scores.detach().topk(share, dim=1).values[:, -1]
        routing.statistics["groups"] = lowest.new_full((), len(lowest))
        routing.statistics["lowest"] = lowest.sum(0)

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        if "lowest" in stats:
            lowest = stats["lowest"] / stats["groups"]
            self.threshold.lerp_(lowest.to(self.threshold.dtype), 1 - self.decay)
            self.updates += 1
