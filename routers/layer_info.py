"""Inputs of a router besides the tokens: those of a forward pass and of the surrounding layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from routers.errors import RequestError


@dataclass(frozen=True)
class RouterContext:
    """Inputs of a forward pass besides the tokens; few routers read them.

    Attributes:
        generator: source of the router's noise, on the tokens' device; None for torch's own.
        step: training step, from 0; None outside training.
        labels: (batch,) long, class of each image.
        previous_logits: the logits of the previous MoE layer, (g, t, E).
        expert_hidden: returns the experts' hidden activations on every token, (E, g, t, h). A call
            runs all experts, once per pass; None outside an MoE layer.
        mask: (g, t) bool, true for real tokens and false for padding; None if all are real.
    """

    generator: torch.Generator | None = None
    step: int | None = None
    labels: Tensor | None = None
    previous_logits: Tensor | None = None
    expert_hidden: Callable[[], Tensor] | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Site:
    """Properties of a layer that few routers read; the defaults describe MLPs on patches.

    Attributes:
        token_shape: shape of a token that is not a vector, as (c, h, w); routers see it flattened.
        levels: sizes of the expert modes, whose product is E; empty if there is one mode.
        expert_hidden: width of the experts' hidden activations; None if they have none.
        kinds: "mlp", "constant", "copy" or "zero" for each expert; empty if all are alike.
        expert_sizes: parameters of each expert; empty if all are alike.
        classes: number of classes that the model predicts; None if unknown.
    """

    token_shape: tuple[int, ...] | None = None
    levels: tuple[int, ...] = ()
    expert_hidden: int | None = None
    kinds: tuple[str, ...] = ()
    expert_sizes: tuple[int, ...] = ()
    classes: int | None = None


@dataclass(frozen=True)
class ExpertTrials:
    """A request for the loss of every expert, by a router that no gradient trains.

    Attributes:
        every: steps from one trial to the next; the first is at the end of step `every`.
        images: the most images of a batch to try experts on.
    """

    every: int
    images: int

    def at(self, step: int) -> bool:
        """Tell whether a step, numbered from 0, ends with a trial."""
        return (step + 1) % self.every == 0


def two_levels(num_experts: int) -> tuple[int, int]:
    """Split E into two expert modes, as equal as possible, ascending: 1024 -> (32, 32).

    Raises:
        RequestError: E has no divisors but 1 and itself.
    """
    first = next(n for n in range(math.isqrt(num_experts), 0, -1) if num_experts % n == 0)
    if first == 1:
        # One more than a prime is even.
        raise RequestError(
            f"num_experts = {num_experts} cannot be split into two levels; "
            f"{max(4, num_experts + 1)} can, as {two_levels(max(4, num_experts + 1))}"
        )
    return first, num_experts // first
