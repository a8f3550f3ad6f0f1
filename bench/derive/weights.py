"""Transforms that hand weights on by name: to train the rest of them, or all of them further."""

from __future__ import annotations

import torch
from torch import nn

from bench.derive.start import register_transform
from routers.errors import RequestError


@register_transform("distill", source="arXiv 2302.14703")
def distill(parent: nn.Module, child: nn.Module) -> None:
    """Take over and freeze what the parent has; train only what it lacks.

    A gate that is expensive, or that sees what a gate should not, so leaves its experts to a plain
    one: of that, only what has no counterpart by name and shape is trained.

    Raises:
        RequestError: nothing has a counterpart, or everything has.
    """
    taken = _hand_over(parent, child)
    for name, parameter in child.named_parameters():
        if name in taken:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in child.parameters()):
        raise RequestError(
            f"transform 'distill' leaves nothing to train: the parent has {len(taken)} of the "
            f"child's {len(child.state_dict())} parameters and buffers by name and shape; "
            "'fine_tune' trains them further"
        )


@register_transform("fine_tune")
def fine_tune(parent: nn.Module, child: nn.Module) -> None:
    """Take over what the parent has; train everything.

    Raises:
        RequestError: nothing of the child has a counterpart by name and shape.
    """
    _hand_over(parent, child)


@torch.no_grad()
def _hand_over(parent: nn.Module, child: nn.Module) -> set[str]:
    """Copy each parameter and buffer that both have in one shape; returns their names."""
    given, taken = parent.state_dict(), child.state_dict()
    names = {name for name in taken if name in given and given[name].shape == taken[name].shape}
    if not names:
        raise RequestError(
            f"none of the child's {len(taken)} parameters and buffers has the name and shape of "
            f"one of its parent's {len(given)}"
        )
    for name in names:
        taken[name].copy_(given[name])
    return names
