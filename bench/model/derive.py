"""The model that a training starts from, and the registry of ways to make it of a trained one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bench.config import TrialSpec
from bench.data import DataShape
from bench.model.build import trial_model
from routers import Router
from routers.errors import BenchError, RequestError
from routers.registry import Registry

TRANSFORMS = Registry("transform")
"""Functions `(parent, child) -> None` of two models on one device: the trained parent, which stays
as it is, and the child with its initial weights. They move what they need into the child, in place,
and freeze (`requires_grad_(False)`) what is not to be trained."""
register_transform = TRANSFORMS.register


def starting_model(spec: TrialSpec, data: DataShape, parent: nn.Module | None) -> nn.Module:
    """The model before the first step of its training, on torch's default device.

    Args:
        spec: the trial.
        data: what it is trained on.
        parent: the model of `spec.parent`, trained; None where the trial is not derived.

    Raises:
        BenchError: the parent is missing.
        RequestError: the transform does not fit the two models.
    """
    model = trial_model(spec, data)
    if spec.transform is not None:
        if parent is None:
            raise BenchError("a derived trial is trained from its parent's model; none was given")
        TRANSFORMS.get(spec.transform).target(parent, model)
    return model


@register_transform("distill", source="arXiv 2302.14703")
def distill(parent: nn.Module, child: nn.Module) -> None:
    """Take over what the parent has; then only the gates learn.

    A gate that is expensive, or that reads what must run first, so leaves its experts to a plain
    one, which starts from the other's body where both have the same.

    Raises:
        RequestError: something but the gates has no counterpart by name and shape, or no gate of
            the child learns.
    """
    taken, routers = _hand_over(parent, child), _routers(child)
    learning = [p for router in routers for p in router.parameters() if p.requires_grad]
    child.requires_grad_(False)
    if not learning:
        raise RequestError(
            "transform 'distill' trains the gates alone, and the child has none that learns: "
            "choose another router, or the transform 'fine_tune'"
        )
    for parameter in learning:
        parameter.requires_grad_(True)
    _require(parent, child, taken, routers)


@register_transform("fine_tune")
def fine_tune(parent: nn.Module, child: nn.Module) -> None:
    """Take over what the parent has; train everything.

    The gates and the last layer may be new: other routers and other classes are what one tunes to.

    Raises:
        RequestError: something else has no counterpart by name and shape.
    """
    last = getattr(child, "get_classifier", nn.Identity)()
    _require(parent, child, _hand_over(parent, child), [*_routers(child), last])


def _routers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, Router)]


def _require(
    parent: nn.Module, child: nn.Module, taken: set[str], spared: Sequence[nn.Module]
) -> None:
    """Refuse a child of which more is new than what is spared."""
    new = {id(parameter) for module in spared for parameter in module.parameters()}
    lacking = [n for n, p in child.named_parameters() if n not in taken and id(p) not in new]
    if lacking:
        raise RequestError(
            f"parameters beside the gates have no counterpart in the parent ({len(lacking)} of "
            f"{type(parent).__name__}, the first is {lacking[0]!r}): give the child the model, "
            "data and experts of its parent"
        )


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


# Importing them registers the built-in transforms.

__all__ = ["TRANSFORMS", "register_transform", "starting_model"]
