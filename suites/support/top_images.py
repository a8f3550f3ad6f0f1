"""The images that an expert weights most: the use of each expert, and thumbnails."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from suites.support.base import Array, MetricDef

SHOWN, SIDE = 16, 32
"""Number of experts per layer with thumbnails, and a thumbnail's longest side in pixels."""

TOP_IMAGES = (
    MetricDef("expert_usage", "share", None, "Each expert's share of all combine weight: (E,)."),
    MetricDef(
        "top_images",
        "",
        None,
        "Thumbnails of the images that weight an expert most: uint8 (experts, k, c, h, w), from 0 "
        "for the darkest value of the array to 255; 0 if fewer than k images use the expert.",
    ),
    MetricDef("top_image_experts", "", None, "Experts shown, the most used first: (experts,)."),
    MetricDef(
        "top_image_weights",
        "",
        None,
        "Total combine weight that the image's tokens give the expert: (experts, k).",
    ),
    MetricDef("top_image_labels", "", None, "Classes of these images: (experts, k); -1 for none."),
    MetricDef("top_image_index", "", None, "Their places in the split: (experts, k); -1 for none."),
)


class TopImages:
    """The use of each expert of one layer, and the k images that weight it most, batch by batch.

    All images are added once, which settles which to keep; in a second pass those are kept.

    Attributes:
        usage: (E,) double, the total combine weight of each expert.
        weights: (E, k) double, the weights of the images that weight it most, largest first.
        index: (E, k) long, these images' places in the split; -1 if there are fewer.
    """

    def __init__(self, num_experts: int, k: int) -> None:
        self.usage = torch.zeros(num_experts, dtype=torch.double)
        self.weights = torch.zeros(num_experts, k, dtype=torch.double)
        self.index = torch.full((num_experts, k), -1)
        self._kept: dict[int, tuple[Tensor, int]] = {}

    @property
    def num_experts(self) -> int:
        return len(self.usage)

    def add(self, weights: Tensor, first: int) -> None:
        """Add images from place `first` of the split on: (n, E) double, their experts' weights."""
        self.usage += weights.sum(0)
        places = torch.arange(first, first + len(weights)).expand(self.num_experts, -1)
        both = torch.cat([self.weights, weights.T], 1)
        # Stable: on ties the earlier image stays, and none of weight 0 replaces "no image".
        order = both.argsort(dim=1, descending=True, stable=True)[:, : self.weights.shape[1]]
        self.weights = both.gather(1, order)
        self.index = torch.cat([self.index, places], 1).gather(1, order)

    def most_used(self, count: int | None) -> list[int]:
        """Return up to `count` experts, the most used first."""
        experts: list[int] = self.usage.argsort(descending=True, stable=True)[:count].tolist()
        return experts

    @property
    def shown(self) -> list[int]:
        """The experts for which images are shown: the most used, and no unused one."""
        return [expert for expert in self.most_used(SHOWN) if self.usage[expert] > 0]

    def keep(self, images: Tensor, labels: Tensor, first: int) -> None:
        """Keep thumbnails of those among (n, c, h, w) images that weight a shown expert most."""
        wanted = self.index[self.shown]
        here = wanted[(wanted >= first) & (wanted < first + len(images))].unique()
        for place in here.tolist():
            image = images[place - first]
            size = (min(image.shape[1], SIDE), min(image.shape[2], SIDE))
            self._kept[place] = adaptive_avg_pool2d(image, size).cpu(), int(labels[place - first])

    def arrays(self) -> Iterator[Array]:
        """Yield the use of each expert, and its images; no images if no expert is used."""
        total = self.usage.sum().clamp(min=torch.finfo(torch.double).tiny)
        yield Array("expert_usage", (self.usage / total).numpy())
        if not self._kept:
            return
        index = self.index[self.shown]
        pixels = torch.stack([image for image, _ in self._kept.values()])
        low, high = pixels.min(), pixels.max()
        thumbnails = np.zeros((*index.shape, *pixels.shape[1:]), dtype=np.uint8)
        labels = np.full(index.shape, -1)
        for place, (image, label) in self._kept.items():
            bright = 255 * (image - low) / (high - low).clamp(min=1e-12)
            at = (index == place).numpy()
            thumbnails[at], labels[at] = bright.round().to(torch.uint8).numpy(), label
        yield Array("top_images", thumbnails)
        yield Array("top_image_experts", np.array(self.shown))
        yield Array("top_image_weights", self.weights[self.shown].float().numpy())
        yield Array("top_image_labels", labels)
        yield Array("top_image_index", index.numpy())
