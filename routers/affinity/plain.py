"""Affinities of one product: the token with one vector an output."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.affinity.base import Affinity, lecun_normal, register_affinity
from routers.hyper import Range, hyper


@register_affinity("linear", family="affinity", source="arXiv 2106.05974")
class Linear(Affinity):
    """The product of the token with one vector an output: xW, without bias.

    Initialised as in V-MoE, truncated normal with variance 1/d.
    """

    def build(self) -> None:
        self.weight = lecun_normal(self.outputs, self.dim)

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(tokens, self.weight)

    def output(self) -> nn.Parameter:
        return self.weight


@register_affinity("cosine", family="affinity", source="arXiv 2204.09179")
class Cosine(Affinity):
    """Cosine of the projected token and one vector an output, over a learned temperature.

    A token is projected to few dimensions, where it and the outputs' vectors lie on the unit
    sphere, so that no output gains by the length of its vector. The inverse temperature is
    learned as a logarithm, and is at most 100, so that it can neither change its sign nor run away.
    Known limit: a token whose projection is much shorter than 1e-3 gets logits near 0.
    """

    width: int | None = hyper(
        None, "Dimensions that the tokens are projected to; none gives n / 2, but at least 4.", ge=2
    )
    temperature: float = hyper(
        0.3, "Initial temperature.", ge=0.01, tune=Range(0.05, 1.0, log=True)
    )

    largest_scale = 100.0

    def build(self) -> None:
        width = self.width or min(self.dim, max(4, self.outputs // 2))
        self.projection = lecun_normal(width, self.dim)
        self.vectors = lecun_normal(self.outputs, width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(self.temperature)))

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        scale = self.log_scale.clamp(max=math.log(self.largest_scale)).exp()
        return _cosine(F.linear(tokens, self.projection), self.vectors, scale)


@register_affinity("soft", family="affinity", source="arXiv 2308.00951")
class Soft(Affinity):
    """Cosine of the token and one vector an output, times one learned scale.

    Logits are bounded by the scale whatever the width, which keeps a softmax over tokens from
    collapsing to one of them. The scale starts at 1, the vectors as in V-MoE's code.
    Known limit: a token much shorter than 1e-3 gets logits near 0.
    """

    def build(self) -> None:
        self.vectors = lecun_normal(self.outputs, self.dim)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return _cosine(tokens, self.vectors, self.scale)


def _cosine(x: Tensor, vectors: Tensor, scale: Tensor) -> Tensor:
    """Compute scaled cosines of (…, d) with (n, d): (…, n)."""
    # The token's length divides the logits, which are fewer than its entries.
    weight = vectors * (scale * _inverse_length(vectors))
    return F.linear(x, weight) * _inverse_length(x)


def _inverse_length(x: Tensor) -> Tensor:
    """Return (…, d) -> (…, 1). The small addend keeps it, and its gradient, finite at 0."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() + 1e-6).rsqrt()
