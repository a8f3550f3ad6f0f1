"""Traces: where each patch of a few test images went, for a reader to look at.

The sample is the first images of each class of the test split, so all routers and all seeds of a
study show the same images. For each patch it keeps the expert with the largest combine weight and
that expert's share of the patch's combine weight; weights are absolute values, summed over an
expert's slots. A patch whose combine weights are all 0, such as a dropped token, has no expert.

Only the sample is run, as if the split had no other images: a router that routes the tokens of a
whole batch together sees only these. Only tokens that are patches have a place in an image: class
tokens and registers are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from routers.hyper import hyper
from routers.router import Router
from suites.support.base import (
    CLASS_NAMES,
    Array,
    Metric,
    MetricDef,
    Suite,
    layers_and_mean,
    named_classes,
    register_suite,
)
from suites.support.subject import TrialSubject, by_image, why_not_routed

SIDE = 32
"""The longest side of a thumbnail, in pixels."""
CHANNEL_TOKENS = "mlp_tokens"
"""Timm's name for the network of an MLP-Mixer whose tokens are the channels of an image."""


@register_suite("traces", family="routing", source="arXiv 2106.05974, 2401.15969")
class Traces(Suite[TrialSubject]):
    """Where each patch of a few test images went: a small sample, for the web page.

    Recorded at the end of training and at earlier snapshots, for each MoE layer whose tokens lie on
    a grid over the image, or are whole images. Known limit: of the experts that process a patch,
    only the one with the largest weight is kept.
    """

    on = "trial"
    main_metric = "top_share"
    metrics = (
        MetricDef(
            "top_share",
            "share",
            None,
            "Largest share of a token's combine weight that goes to one expert, 0 if it has none; "
            "mean over the sampled tokens.",
        ),
        MetricDef("without_expert", "share", None, "Sampled tokens whose combine weight is 0."),
        MetricDef(
            "traced_images",
            "",
            None,
            "Thumbnails: uint8 (n, c, h, w); each channel from 0 for its darkest value to 255.",
        ),
        MetricDef("traced_labels", "", None, "Classes of the images, ascending: (n,)."),
        MetricDef("traced_index", "", None, "Their places in the test split: (n,)."),
        MetricDef(
            "traced_experts",
            "",
            None,
            "Expert with the largest combine weight, the first on ties: int16 (n, rows, columns); "
            "-1 for none.",
        ),
        MetricDef(
            "traced_shares",
            "",
            None,
            "That expert's share of the patch's combine weight: uint8 (n, rows, columns), 255 for "
            "all of it.",
        ),
        MetricDef(
            "traced_weights",
            "",
            None,
            "Total combine weight that an image's patches give each expert: float32 (n, E).",
        ),
        CLASS_NAMES,
    )

    images: int = hyper(2, "Images of each class, the first of the test split.", ge=1)
    classes: int = hyper(20, "Classes with images shown, the first by label.", ge=1)
    snapshots: int = hyper(
        4, "Most earlier snapshots to trace, evenly spaced from the start.", ge=0
    )

    def applies_to(self, subject: TrialSubject) -> str | None:
        return why_not_routed(subject.model)

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        labels = subject.labels_of("test")
        shown = range(min(self.classes, subject.num_classes))
        places = torch.cat([(labels == each).nonzero()[: self.images, 0] for each in shown])
        sample = Sample.routed(subject, subject.model, places)
        yield from layers_and_mean([layer_metrics(weights) for weights in sample.layers], "test")
        yield Array("traced_images", thumbnails(sample.images), split="test")
        yield Array("traced_labels", labels[places].numpy(), split="test")
        yield Array("traced_index", places.numpy(), split="test")
        yield named_classes(subject.class_names)
        yield from sample.traces(subject.model)
        earlier = subject.snapshots[:-1]  # the last one is the end
        spaced = np.linspace(0, len(earlier), min(self.snapshots, len(earlier)), endpoint=False)
        for snapshot in (earlier[int(place)] for place in spaced):
            model = snapshot.load()
            for array in Sample.routed(subject, model, places).traces(model):
                yield replace(array, step=snapshot.step)


@dataclass(frozen=True, eq=False)
class Sample:
    """The sampled images, and how one model routed them; on the CPU.

    Attributes:
        images: (n, c, h, w) float, normalised.
        layers: for each MoE layer, (n, tokens, E) float, the absolute combine weights.
    """

    images: Tensor
    layers: list[Tensor]

    @classmethod
    def routed(cls, subject: TrialSubject, model: nn.Module, places: Tensor) -> Sample:
        """Run a model on the images at these places of the test split."""
        images, routings = [], []
        for batch in subject.run(model, "test", places=places):
            images.append(batch.images.float().cpu())
            weights = [
                by_image(each.combine_weights(), len(batch.labels)) for each in batch.routings
            ]
            routings.append([each.abs().float().cpu() for each in weights])
        return cls(torch.cat(images), [torch.cat(layer) for layer in zip(*routings, strict=True)])

    def traces(self, model: nn.Module) -> Iterator[Array]:
        """Yield the arrays of each layer whose tokens have a place in the image."""
        names = [name for name, part in model.named_modules() if isinstance(part, Router)]
        for layer, (name, weights) in enumerate(zip(names, self.layers, strict=True)):
            channels = CHANNEL_TOKENS in name.split(".")
            grid = None if channels else grid_of(model, weights.shape[1], self.images.shape[2:])
            if grid is None:
                continue
            shape = len(weights), grid.rows, grid.columns
            patches = weights[:, grid.first :]
            experts, shares = largest(patches)
            yield Array("traced_experts", experts.reshape(shape), layer, split="test")
            quantised = (255 * shares).round().astype(np.uint8)
            yield Array("traced_shares", quantised.reshape(shape), layer, split="test")
            yield Array("traced_weights", patches.sum(1).numpy(), layer, split="test")


def largest(weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return each token's expert with the largest weight, and its share: 0 without an expert.

    Args:
        weights: (n, tokens, E) float, 0 or more.

    Returns:
        (n, tokens) int16, -1 for no expert, and (n, tokens) float64.
    """
    values = weights.double().numpy()
    total = values.sum(-1)
    experts = np.where(total > 0, values.argmax(-1), -1).astype(np.int16)
    shares: np.ndarray = values.max(-1) / np.where(total > 0, total, 1)
    return experts, shares


def layer_metrics(weights: Tensor) -> list[Metric]:
    """Measure the routing of all sampled tokens, patches or not: (n, tokens, E)."""
    experts, shares = largest(weights)
    without = float((experts < 0).mean())
    return [Metric("top_share", float(shares.mean())), Metric("without_expert", without)]


@dataclass(frozen=True)
class Grid:
    """The patches among an image's tokens: those from `first` on, row by row."""

    first: int
    rows: int
    columns: int


def grid_of(model: nn.Module, tokens: int, size: torch.Size) -> Grid | None:
    """Return the patches among an image's tokens; None if the tokens lie on no known grid.

    A single token is the whole image. Otherwise the grid is that of timm's patch embedding, after
    the class token and registers; or, in a hierarchical network, that of pixels at some stride.

    Args:
        size: height and width of an image.
    """
    if tokens == 1:
        return Grid(0, 1, 1)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    for module in model.modules():
        grid = getattr(module, "grid_size", None)
        if isinstance(grid, tuple) and len(grid) == 2 and grid[0] * grid[1] == tokens - prefix:
            return Grid(prefix, int(grid[0]), int(grid[1]))
    height, width = size
    for stride in range(1, min(size) + 1) if not prefix else ():
        if height % stride == width % stride == 0:
            rows, columns = height // stride, width // stride
            if rows * columns == tokens:
                return Grid(0, rows, columns)
    return None


def thumbnails(images: Tensor) -> np.ndarray:
    """Shrink (n, c, h, w) images to uint8, each channel from its darkest value to its brightest."""
    scale = min(1.0, SIDE / max(images.shape[2:]))
    height, width = (max(1, round(scale * side)) for side in images.shape[2:])
    small = adaptive_avg_pool2d(images, (height, width))
    low, high = small.transpose(0, 1).flatten(1).aminmax(dim=1)
    low, high = low.view(1, -1, 1, 1), high.view(1, -1, 1, 1)
    bright: np.ndarray = (255 * (small - low) / (high - low).clamp(min=1e-12)).round().numpy()
    return bright.astype(np.uint8)
