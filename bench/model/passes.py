"""What one forward pass tells the routers of a model, and learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from routers import RouterContext, Routing


@dataclass
class PassState:
    """Shared by the MoE layers of one model.

    Attributes:
        context: what every router of the model is told.
        routings: those of the running pass, in network order; None outside `forward_pass`.
    """

    context: RouterContext = field(default_factory=RouterContext)
    routings: list[Routing] | None = None

    def context_of_next_layer(self) -> RouterContext:
        """The context, with the logits of the MoE layer that has just run."""
        if not self.routings:
            return self.context
        return replace(self.context, previous_logits=self.routings[-1].logits)


@contextmanager
def forward_pass(
    model: nn.Module,
    *,
    labels: torch.Tensor | None = None,
    step: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[list[Routing]]:
    """Record the routings of a model's forward pass.

        with forward_pass(model) as routings:
            logits = model(images)

    Args:
        model: what `moefy` returned, or a dense model, which records nothing.
        labels: (batch,) long, for routers that read them.
        step: training step, from 0.
        generator: source of the routers' noise, on the model's device.

    Yields:
        A list that fills with one `Routing` for each MoE layer, in network order.
    """
    states = {
        id(state): state
        for module in model.modules()
        if isinstance(state := getattr(module, "pass_state", None), PassState)
    }
    routings: list[Routing] = []
    for state in states.values():
        state.context = RouterContext(generator=generator, step=step, labels=labels)
        state.routings = routings
    try:
        yield routings
    finally:
        for state in states.values():
            state.context, state.routings = RouterContext(), None
