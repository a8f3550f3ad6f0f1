"""Images' masses over experts, and the entropy and mutual information of their tables, in bits."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from routers.errors import BenchError
from suites.support.subject import by_image

KINDS = ("soft", "hard")
"""A token's distribution itself, or one-hot at its largest entry."""


class ImageMasses:
    """The tokens' distributions over experts, summed over each image, added batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        self._entropies = 0.0
        self._tokens = self._counted = 0

    def add(self, weights: Tensor, images: int, mask: Tensor | None = None) -> None:
        """Add one batch: (g, t, E) weights of the tokens of `images` images, in order.

        Padding, where a (g, t) bool mask is false, has weights of 0 and is not counted.

        Raises:
            BenchError: a weight is negative, or the tokens do not divide evenly among the images.
        """
        weights = by_image(weights.double(), images)
        if (weights < 0).any():
            raise BenchError(
                f"weights of {float(weights.min()):.3g} make no distribution over the experts"
            )
        total = weights.sum(-1, keepdim=True)
        counted = total > 0
        soft = torch.where(counted, weights / total, 0.0)
        hard = one_hot(soft.argmax(-1), soft.shape[-1]) * counted
        self._sums["soft"].append(soft.sum(1).cpu())
        self._sums["hard"].append(hard.sum(1).double().cpu())
        self._entropies += float(entropy_bits(soft[counted.squeeze(-1)]).sum())
        self._tokens += counted.numel() if mask is None else int(mask.sum())
        self._counted += int(counted.sum())

    def of_kind(self, kind: str) -> Tensor:
        """Return (images, E) double: each image's distributions, summed over its tokens."""
        return torch.cat(self._sums[kind])

    @property
    def left_out(self) -> float:
        """The share of tokens whose weights are all 0."""
        return 1 - self._counted / self._tokens

    @property
    def mean_entropy(self) -> float:
        """H_s: the mean over tokens of H(p), in bits."""
        return self._entropies / self._counted


def class_table(masses: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Sum (images, E) masses over the images of each class: (num_classes, E)."""
    table = masses.new_zeros(num_classes, masses.shape[-1])
    return table.index_add_(0, classes, masses)


def entropy_bits(masses: Tensor) -> Tensor:
    """Compute H = −Σ q log2 q of each distribution q = masses / their sum: (…, n) -> (…)."""
    shares = masses / masses.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(2)


def mutual_information_bits(tables: Tensor) -> Tensor:
    """Compute I = H(row) + H(column) − H(row, column) of each table, (…, rows, columns) -> (…)."""
    rows, columns = entropy_bits(tables.sum(-1)), entropy_bits(tables.sum(-2))
    return rows + columns - entropy_bits(tables.flatten(-2))
