"""The model of a trial on its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from bench.config import RouterConfig, TrialSpec
from bench.model import build_model


class DataShape(Protocol):
    """What a model must know of a data set; a `Dataset` tells it."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...


@dataclass(frozen=True)
class ExpectedData:
    """A data set that need not be there.

    Attributes:
        image_shape: (channels, height, width).
        num_classes: labels.
        num_samples: images of the training split.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_samples: int


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
