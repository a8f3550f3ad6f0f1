"""Evaluation of a model on a split, in eval mode and without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from bench.data import Dataset, normalise
from bench.model import autocast, forward_pass, naming_layer
from suites.support.subject import Observed


@dataclass(frozen=True)
class Score:
    """The mean accuracy and loss over the images of a split.

    Attributes:
        top1: share of the images that are classified correctly.
        loss: cross-entropy in nats, without label smoothing.
    """

    top1: float
    loss: float


def observe(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Iterator[Observed]:
    """Run the model in eval mode on every image of a split, batch by batch, in a fixed order.

    Raises:
        NonFiniteError: a router's logits are not finite; it names layer and token.
    """
    model.eval()
    for pixels, labels in dataset.splits[split].batches(batch_size):
        images = normalise(pixels.to(device), dataset)
        with (
            naming_layer(model),
            torch.no_grad(),
            autocast(precision, device),
            forward_pass(model) as routings,
        ):
            logits = model(images)
        yield Observed(images, labels.to(device), logits.float(), routings)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Score:
    """Measure accuracy and loss on a split; the model is left in the mode that it was in."""
    was_training = model.training
    right = torch.zeros((), dtype=torch.long, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    for batch in observe(
        model,
        dataset,
        split,
        batch_size=batch_size,
        device=device,
        precision=precision,
    ):
        right += (batch.logits.argmax(-1) == batch.labels).sum()
        loss += F.cross_entropy(batch.logits, batch.labels, reduction="sum")
        seen += len(batch.labels)
    model.train(was_training)
    return Score(right.item() / seen, loss.item() / seen)
