"""Affinities: how tokens become logits.

Axes: g groups, t tokens, d width, n outputs (E experts, or E·s slots for soft routers, which
unflatten them). An affinity is called as `affinity(tokens, context)`, (g, t, d) -> (g, t, n), and
can be combined with any allocation that takes its logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.hyper import Configurable, Range, hyper
from routers.registry import Registry

AFFINITIES = Registry("affinity")
register_affinity = AFFINITIES.register


class Affinity(nn.Module, Configurable):
    """Base of the affinities: a subclass makes its parameters in `build` and writes `forward`.

    Args:
        dim: width d of the tokens.
        outputs: n, logits of each token.
        hyper: hyper-parameters, by name.

    Raises:
        RequestError: a hyper-parameter that the affinity does not have, or a value that it refuses.
    """

    def __init__(self, dim: int, outputs: int, **hyper: Any) -> None:
        super().__init__()
        self.dim, self.outputs = dim, outputs
        self.set_hyper(hyper)
        self.build()

    def build(self) -> None:
        """Make the parameters."""
        raise TypeError(f"affinity {type(self).__name__!r} defines no build(self)")

    def extra_repr(self) -> str:
        own = {"dim": self.dim, "outputs": self.outputs, **self.hyper_values()}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


@register_affinity("linear", family="affinity", source="arXiv 2106.05974")
class Linear(Affinity):
    """The product of the token with one vector an output: xW, without bias.

    Initialised as in V-MoE, truncated normal with variance 1/d.
    """

    def build(self) -> None:
        self.weight = _lecun_normal(self.outputs, self.dim)

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(tokens, self.weight)


@register_affinity("mlp", family="affinity", source="two layers")
class TwoLayer(Affinity):
    """Two layers with tanh between them: tanh(xU + b)V.

    Both matrices are initialised with variance 1 over their inputs, the bias with 0.
    """

    hidden: int | None = hyper(None, "Width of the hidden layer; none gives d / 4.", ge=1)

    def build(self) -> None:
        hidden = self.hidden or max(1, self.dim // 4)
        self.inner = _lecun_normal(hidden, self.dim)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.outer = _lecun_normal(self.outputs, hidden)

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(F.linear(tokens, self.inner, self.bias).tanh(), self.outer)


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
        self.projection = _lecun_normal(width, self.dim)
        self.vectors = _lecun_normal(self.outputs, width)
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
        self.vectors = _lecun_normal(self.outputs, self.dim)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return _cosine(tokens, self.vectors, self.scale)


def build_affinity(
    name: str,
    dim: int,
    outputs: int,
    **hyper: Any,
) -> nn.Module:
    """A registered affinity by name.

    Args:
        name: linear, cosine, mlp, soft, or a user's own.
        dim: width of the tokens.
        outputs: logits of each token.
        hyper: the affinity's hyper-parameters.

    Raises:
        RequestError: no such affinity, or a hyper-parameter that it does not have.
    """
    affinity: nn.Module = AFFINITIES.get(name).target(dim, outputs, **hyper)
    return affinity


def _lecun_normal(rows: int, columns: int) -> nn.Parameter:
    """(rows, columns), truncated normal at two deviations, variance 1 / columns after the cut."""
    # 0.8796… is the deviation of a unit normal that was cut at ±2.
    std = columns**-0.5 / 0.87962566103423978
    weight = torch.empty(rows, columns)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return nn.Parameter(weight)


def _cosine(x: Tensor, vectors: Tensor, scale: Tensor) -> Tensor:
    """Scaled cosines of (…, d) with (n, d): (…, n)."""
    # The token's length divides the logits, which are fewer than its entries.
    weight = vectors * (scale * _inverse_length(vectors))
    return F.linear(x, weight) * _inverse_length(x)


def _inverse_length(x: Tensor) -> Tensor:
    """(…, d) -> (…, 1). The small addend keeps it, and its gradient, finite at 0."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() + 1e-6).rsqrt()
