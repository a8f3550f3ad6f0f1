"""The training objective: the task's loss plus weighted auxiliary losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import TrainConfig
from bench.model.moe import moe_layers
from bench.model.state import forward_pass
from routers import LOSSES, Batch, NonFiniteError, Parts, Routing


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of one batch.

    Attributes:
        total: scalar, differentiable.
        task: scalar, cross-entropy with the recipe's label smoothing, detached.
        routings: one for each MoE layer, in network order.
    """

    total: Tensor
    task: Tensor
    routings: list[Routing]


class Objective:
    """The loss: smoothed cross-entropy + Σ weight · (mean auxiliary loss over the MoE layers).

    A router's own loss, weighted by the router's definition, is added for each layer.
    Raises `RequestError` if the recipe names an auxiliary loss or an option that does not exist.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._train = train
        self._auxiliary = [
            (weight, entry.target, options)
            for name, weight in train.losses.items()
            for entry in [LOSSES.get(name)]
            # A loss of weight 0 is validated too, and then left out.
            for options in [entry.validate(train.loss_options.get(name, {}))]
            if weight
        ]

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        step: int,
        generator: torch.Generator | None = None,
        parts: Parts | None = None,
    ) -> Losses:
        """Compute the losses of one batch, with gradients.

        Args:
            model: the model, in training mode.
            images: (n, c, h, w) float, normalised.
            labels: (n,) long, the classes.
            step: number of the training step, from 0.
            generator: source of the routers' noise, on the model's device.
            parts: the parts of the whole batch, if these images are only one of them.
        """
        batch = Batch(images, labels, parts)
        with (
            naming_layer(model),
            forward_pass(model, labels=labels, step=step, generator=generator) as routings,
            autocast(self._train.precision, images.device),
        ):
            logits = model(images)
        smoothing = self._train.label_smoothing
        task = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        task = unless_refused(task, routings)
        total = task
        if routings:
            for weight, loss, options in self._auxiliary:
                layers = torch.stack([loss(routing, batch, **options) for routing in routings])
                total = total + weight * layers.mean()
            for layer, routing in zip(moe_layers(model).values(), routings, strict=True):
                if (own := layer.router.own_loss(routing, batch)) is not None:
                    total = total + own
        return Losses(total, task.detach(), routings)


def unless_refused(loss: Tensor, routings: Iterable[Routing]) -> Tensor:
    """Return the loss, or NaN if a router flagged non-finite logits instead of raising."""
    for routing in routings:
        if routing.refused is not None:
            loss = loss.masked_fill(routing.refused, math.nan)
    return loss


@contextmanager
def naming_layer(model: nn.Module) -> Iterator[None]:
    """Add the layer's name to the error of a router that rejects its logits."""
    try:
        yield
    except NonFiniteError as error:
        for name, layer in moe_layers(model).items():
            if layer.router is error.router:
                raise NonFiniteError(f"layer {name}: {error}") from error
        raise


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context that autocasts to "bfloat16", or does nothing for "float32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
