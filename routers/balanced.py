"""Balanced assignment of tokens to experts (BASE layers)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from routers.affinity import Affinity
from routers.logits import expert_softmax
from routers.router import Unlimited, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("base", family="token_choice", display="BASE", source="arXiv 2103.16716")
class BaseLayer(Unlimited):
    """In training, the optimal assignment gives each expert t/E tokens of a group (BASE).

    The assignment maximises the sum of the assigned logits; the paper's code approximates it by an
    auction. In evaluation each token takes its best expert, without a capacity. The weight is
    σ(L), the only path by which the gate learns.

    In the paper the layer is an extra block, y = α f(x) + (1 − α) x; here it replaces an MLP, and
    the block's residual connection carries the token. Cost: one assignment problem per group,
    solved on the CPU. If E does not divide t, an expert takes at most ⌈t/E⌉ tokens.
    """

    host_reads = "an assignment problem is solved on the CPU"
    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]

    def build_gate(self) -> nn.Module:
        gate = super().build_gate()
        weight = gate.output() if isinstance(gate, Affinity) else None
        if weight is not None:
            nn.init.orthogonal_(weight, gain=0.1)
        return gate

    def allocate(self, logits: Tensor) -> Routing:
        chosen = balanced_assignment(logits.detach()) if self.training else logits.argmax(-1)
        experts = chosen.unsqueeze(-1)
        weights = logits.sigmoid().gather(-1, experts)
        allowed = logits.gather(-1, experts) > -torch.inf
        gates = expert_softmax(logits)
        return TokenChoiceRouting.from_choices(gates, experts, weights, None, chosen=allowed)


@torch.no_grad()
def balanced_assignment(scores: Tensor) -> Tensor:
    """Assign each token to one expert, at most ⌈t/E⌉ to each, maximising the sum of scores.

    SciPy solves this exactly on the CPU, faster than an auction on a GPU for one image's tokens.

    Args:
        scores: (g, t, E), finite or −∞; a pair at −∞ is assigned only if nothing else is left.

    Returns:
        (g, t) long: the expert of each token.
    """
    _, tokens, experts = scores.shape
    slots = -(-tokens // experts)
    # `worst` is lower than any sum of the finite scores.
    # SciPy rejects NaN and +∞, which do get here on a GPU: see `Routing.refused`.
    finite = scores.double().nan_to_num(0, 0, 0)
    worst = -2 * (1 + finite.abs().sum(1).amax()) if scores.numel() else 0.0
    values = finite.masked_fill(scores == -torch.inf, float(worst)).cpu().numpy()
    solved = [
        linear_sum_assignment(np.repeat(group, slots, axis=1), maximize=True)[1] // slots
        for group in values
    ]
    assigned = np.stack(solved) if solved else np.empty((0, tokens), dtype=np.int64)
    return torch.from_numpy(assigned).to(scores.device)
