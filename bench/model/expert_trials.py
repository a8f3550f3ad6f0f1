"""The loss of every expert on every image, for routers that choose experts by their losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import TrainConfig
from bench.model.moe import MoELayer
from bench.model.objective import autocast

Losses = Callable[[], Tensor]
"""Runs a model on a batch and returns the loss of each image, (n,)."""


@torch.no_grad()
def expert_losses(layer: MoELayer, losses: Losses) -> Tensor:
    """Return (n, E) losses, sending all tokens of a layer to one expert after another."""
    columns = []
    for expert in range(layer.experts.num_experts):
        with layer.forced(expert):
            columns.append(losses())
    return torch.stack(columns, 1)


def losses_for(
    model: nn.Module, layer: MoELayer, images: Tensor, labels: Tensor, train: TrainConfig
) -> Tensor:
    """Compute the losses that a layer's router asks for, in eval mode, on the first images.

    Args:
        images: (n, c, h, w) float, normalised.
        labels: (n,) long.

    Returns:
        (m, E): the task's loss of each image when all its tokens go to one expert of this layer,
        while other layers route as usual. m is n or, if smaller, the number that the router asks
        for.
    """
    assert layer.router.trials is not None
    images, labels = (each[: layer.router.trials.images] for each in (images, labels))

    def losses() -> Tensor:
        with autocast(train.precision, images.device):
            logits = model(images)
        smoothing = train.label_smoothing
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)

    training = model.training
    try:
        model.eval()
        return expert_losses(layer, losses)
    finally:
        model.train(training)
