"""Token choice in which less certain tokens take more experts."""

from __future__ import annotations

import torch
from torch import Tensor

from routers.hyper import Range, hyper
from routers.logits import expert_softmax
from routers.router import RAGGED, Unlimited, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("top_p", family="token_choice", display="Top-p", source="arXiv 2403.07652")
class TopP(Unlimited):
    """Each token takes its best experts until their softmax gates sum to more than p.

    The expert that crosses p is taken too, so a token has at least one. The weights are the gates,
    not divided by their sum. There is no capacity, so nothing is dropped.

    Cost: a sort of each token's gates. Known limit: at the start the gates are even, and a token
    takes more than p · E experts; use it with the losses `gate_entropy` and `gshard` (choices=all).
    """

    ignores_groups = True
    host_reads = RAGGED
    p: float = hyper(
        0.4, "Sum of the gates that the chosen experts exceed.", gt=0, le=1, tune=Range(0.1, 0.9)
    )

    def allocate(self, logits: Tensor) -> Routing:
        gates = expert_softmax(logits)
        order = logits.argsort(dim=-1, descending=True, stable=True)
        ranked = gates.detach().gather(-1, order)
        # The sum before each expert: 0 for the first, whatever its gate rounds to.
        before = ranked.cumsum(-1).roll(1, -1).index_fill(-1, order.new_zeros(1), 0)
        needed = (before <= self.p) & (logits.gather(-1, order) > -torch.inf)
        selected = torch.empty_like(needed).scatter_(-1, order, needed)
        return TokenChoiceRouting.from_mask(gates, gates, selected)

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)
