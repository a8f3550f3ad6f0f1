"""The model that a training starts from, and the registry of ways to make it of a trained one."""

from __future__ import annotations

from torch import nn

from bench.config import TrialSpec
from bench.data.dataset import DataShape
from bench.trial_model import trial_model
from routers.errors import BenchError
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
