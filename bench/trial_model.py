"""The model of a trial on its data."""

from __future__ import annotations

from torch import nn

from bench.config import RouterConfig, TrialSpec
from bench.data.dataset import DataShape
from bench.model.build import build_model


def trial_model(
    spec: TrialSpec, data: DataShape, *, router: RouterConfig | None = None
) -> nn.Module:
    """The model with its initial weights, on torch's default device.

    Args:
        spec: the trial.
        data: what it is trained on.
        router: one in place of the trial's own.
    """
    channels, *size = data.image_shape
    return build_model(
        spec.model,
        router or spec.router,
        spec.experts,
        in_chans=channels,
        num_classes=data.num_classes,
        seed=spec.seed,
        twin=spec.twin,
        input_size=(size[0], size[1]),
    )
