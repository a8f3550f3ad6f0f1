"""What a router may ask for beside the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RouterContext:
    """What a router may ask for beside the tokens; most never look.

    Attributes:
        generator: source of the router's noise, on the tokens' device; None for torch's own.
        step: training step, from 0; None outside training.
        labels: (batch,) long, class of each image.
        previous_logits: the logits of the MoE layer before, (g, t, E).
        expert_hidden: gives the experts' hidden activations on every token, (E, g, t, h). All
            experts run when it is called, once in a pass; None outside an MoE layer.
    """

    generator: torch.Generator | None = None
    step: int | None = None
    labels: Tensor | None = None
    previous_logits: Tensor | None = None
    expert_hidden: Callable[[], Tensor] | None = None
