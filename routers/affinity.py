"""Affinities: how tokens become logits.

Axes: g groups, t tokens, d width, n outputs (E experts, or E·s slots for soft routers, which
unflatten them). An affinity is called as `affinity(tokens, context)`, (g, t, d) -> (g, t, n), and
can be combined with any allocation that takes its logits.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.errors import RequestError
from routers.hyper import Configurable, Range, hyper
from routers.layer_info import RouterContext, Site
from routers.registry import Registry

AFFINITIES = Registry("affinity")
register_affinity = AFFINITIES.register


class Affinity(nn.Module, Configurable):
    """Base class of affinities: subclasses create parameters in `build` and define `forward`.

    Args:
        dim, outputs: d and n.
        site: what the affinity may need to know about its layer.

    Raises:
        RequestError: an unknown hyper-parameter, an invalid value, or a layer in which the affinity
            is undefined.
    """

    per_expert: ClassVar[bool] = False
    """Whether it produces logits for experts only, not for slots or levels."""

    def __init__(self, dim: int, outputs: int, site: Site | None = None, **hyper: Any) -> None:
        super().__init__()
        self.dim, self.outputs, self.site = dim, outputs, site or Site()
        self.set_hyper(hyper)
        self.build()

    def build(self) -> None:
        """Create the parameters."""
        raise TypeError(f"affinity {type(self).__name__!r} defines no build(self)")

    def output(self) -> nn.Parameter | None:
        """Return the (n, h) weights in which the logits are linear, or None if there are none."""
        return None

    def extra_repr(self) -> str:
        own = {"dim": self.dim, "outputs": self.outputs, **self.hyper_values()}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


def build_affinity(
    name: str, dim: int, outputs: int, site: Site | None = None, **hyper: Any
) -> nn.Module:
    """Build a registered affinity by name; the arguments and errors are those of `Affinity`."""
    affinity: nn.Module = AFFINITIES.get(name).target(dim, outputs, site, **hyper)
    return affinity


def lecun_normal(rows: int, columns: int) -> nn.Parameter:
    """Draw (rows, columns) from a normal truncated at ±2 deviations, with variance 1 / columns."""
    # 0.8796… is the standard deviation of a unit normal truncated at ±2.
    std = columns**-0.5 / 0.87962566103423978
    weight = torch.empty(rows, columns)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return nn.Parameter(weight)


@register_affinity("linear", family="affinity", source="arXiv 2106.05974")
class Linear(Affinity):
    """The product of the token and one vector per output: xW, without bias.

    Initialised as in V-MoE, from a truncated normal with variance 1/d.
    """

    def build(self) -> None:
        self.weight = lecun_normal(self.outputs, self.dim)

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(tokens, self.weight)

    def output(self) -> nn.Parameter:
        return self.weight


@register_affinity("cosine", family="affinity", source="arXiv 2204.09179")
class Cosine(Affinity):
    """Cosine of the projected token and one vector per output, over a learned temperature.

    A token is projected to a few dimensions, where it and the outputs' vectors are scaled to unit
    length, so no output gains from the length of its vector. The inverse temperature is learned
    as a logarithm and is at most 100, so it can neither change sign nor diverge.
    Known limit: a token whose projection is much shorter than 1e-3 gets logits near 0.
    """

    width: int | None = hyper(
        None, "Dimensions that tokens are projected to; None gives n / 2, but at least 4.", ge=2
    )
    temperature: float = hyper(
        0.3, "Initial temperature.", ge=0.01, tune=Range(0.05, 1.0, log=True)
    )

    largest_scale = 100.0

    def build(self) -> None:
        self.width = self.width or min(self.dim, max(4, self.outputs // 2))
        self.projection = lecun_normal(self.width, self.dim)
        self.vectors = lecun_normal(self.outputs, self.width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(self.temperature)))

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        scale = self.log_scale.clamp(max=math.log(self.largest_scale)).exp()
        return _cosine(F.linear(tokens, self.projection), self.vectors, scale)


@register_affinity("soft", family="affinity", source="arXiv 2308.00951")
class Soft(Affinity):
    """Cosine of the token and one vector per output, times one learned scale.

    The scale bounds the logits whatever the width, which keeps a softmax over tokens from
    collapsing onto one of them. The vectors are initialised as in V-MoE's code.
    Known limits: a token much shorter than 1e-3 gets logits near 0. At the paper's initial scale of
    1, logits lie within ±1, and a softmax over them stays nearly uniform for thousands of steps.
    """

    initial_scale: float = hyper(
        1.0, "Initial value of the learned scale.", gt=0, tune=Range(1.0, 30.0, log=True)
    )

    def build(self) -> None:
        self.vectors = lecun_normal(self.outputs, self.dim)
        self.scale = nn.Parameter(torch.tensor(float(self.initial_scale)))

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return _cosine(tokens, self.vectors, self.scale)


def _cosine(x: Tensor, vectors: Tensor, scale: Tensor) -> Tensor:
    """Compute the scaled cosines of (…, d) and (n, d): (…, n)."""
    # Divide the logits by the token's length, since they are fewer than its entries.
    weight = vectors * (scale * _inverse_length(vectors))
    return F.linear(x, weight) * _inverse_length(x)


def _inverse_length(x: Tensor) -> Tensor:
    """Return 1 / length, (…, d) -> (…, 1); a small addend keeps it and its gradient finite at 0."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() + 1e-6).rsqrt()


class Deep(Affinity):
    """Base class of affinities with a deep body; a subclass creates it, then calls this `build`.

    The body maps (g, t, d) -> (g, t, width), the hidden vector in which the logits are linear.
    """

    body: nn.Module
    width: int

    def build(self) -> None:
        self.outer = lecun_normal(self.outputs, self.width)

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(self.body(tokens), self.outer)

    def output(self) -> nn.Parameter:
        return self.outer


@register_affinity("mlp", family="affinity", source="two layers")
class TwoLayer(Deep):
    """Two layers with tanh between them: tanh(xU + b)V.

    Both matrices are initialised with variance 1 / (number of inputs), the bias with 0.
    """

    activation: ClassVar[type[nn.Module]] = nn.Tanh
    hidden: int | None = hyper(None, "Width of the hidden layer; None gives d / 4.", ge=1)

    def build(self) -> None:
        self.width = self.hidden or max(1, self.dim // 4)
        inner = nn.Linear(self.dim, self.width)
        inner.weight = lecun_normal(self.width, self.dim)
        nn.init.zeros_(inner.bias)
        self.body = nn.Sequential(inner, self.activation())
        super().build()


@register_affinity("gelu_mlp", family="affinity", source="arXiv 2503.16057")
class WideTwoLayer(TwoLayer):
    """Two layers with GELU between them: GELU(xU + b)V."""

    activation = nn.GELU
    hidden: int | None = hyper(None, "Width of the hidden layer; None gives d.", ge=1)

    def build(self) -> None:
        self.hidden = self.hidden or self.dim
        super().build()


@register_affinity("conv", family="affinity", source="arXiv 2302.14703")
class Convolution(Deep):
    """A small convolutional network for tokens that are images.

    One 3 × 3 convolution, ReLU, 2 × 2 max pooling, then fully connected layers with ReLU, and the
    logits. The defaults are those of the paper's gate for MNIST.
    Known limit: tokens must be images, as in the model `image_classifier`.
    """

    channels: int = hyper(1, "Channels of the convolution.", ge=1)
    hidden: list[int] = hyper(
        [128, 32], "Widths of the fully connected layers; the logits read the last one."
    )

    def build(self) -> None:
        shape = self.site.token_shape
        if shape is None or len(shape) != 3 or not self.hidden:
            raise RequestError(
                "affinity 'conv' needs tokens that are images (model.name = image_classifier) and "
                f"at least one hidden layer; here a token has shape {shape or (self.dim,)} and "
                f"hidden = {self.hidden}: use the affinity 'mlp'"
            )
        self.body, self.width = ConvBody(shape, self.channels, self.hidden), self.hidden[-1]
        super().build()


class ConvBody(nn.Module):
    """Convolution, max pooling and fully connected layers: (…, c·h·w) -> (…, hidden[-1]).

    The 3 × 3 convolution has no padding; an image of `shape` has at least 4 pixels per side.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, hidden: list[int]) -> None:
        super().__init__()
        self.shape = shape
        self.convolution = nn.Conv2d(shape[0], channels, 3)
        height, width = ((side - 2) // 2 for side in shape[1:])
        sizes = [channels * height * width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, tokens: Tensor) -> Tensor:
        images = tokens.reshape(-1, *self.shape)
        x = F.max_pool2d(self.convolution(images).relu(), 2).flatten(1)
        for layer in self.layers:
            x = layer(x).relu()
        return x.view(*tokens.shape[:-1], -1)


@register_affinity("attentive", family="affinity", source="arXiv 2302.14703")
class Attentive(Affinity):
    """Attention from the gate's hidden vector to the experts' hidden activations.

    logit of expert e = (W_q h_gate) · (W_k h_e) / √h, without biases, where h_gate is the body's
    output for the token and h_e are the activations of expert e's last hidden layer on it.

    Cost: every expert's hidden layers run on every token, even if the allocation does not choose
    the expert; distillation into a plain gate with the same body saves that afterwards.
    Known limit: it is undefined for experts without hidden activations (factorised, linear).
    """

    per_expert = True

    body_of: str = hyper("mlp", "Affinity whose body the gate uses: mlp or conv.")
    body_options: dict[str, Any] = hyper({}, "Hyper-parameters of that affinity.")
    width: int | None = hyper(None, "h of queries and keys; None gives that of the experts.", ge=1)

    def build(self) -> None:
        inner = build_affinity(self.body_of, self.dim, 1, self.site, **self.body_options)
        if not isinstance(inner, Deep):
            raise RequestError(
                f"affinity 'attentive': body_of = {self.body_of!r} has no hidden layer; "
                "use mlp or conv"
            )
        if self.site.expert_hidden is None:
            raise RequestError(
                "affinity 'attentive' reads the experts' hidden activations, and these experts "
                "have none: use experts.name = mlp or classifier"
            )
        width = self.width or self.site.expert_hidden
        self.body = inner.body
        self.query = lecun_normal(width, inner.width)
        self.key = lecun_normal(width, self.site.expert_hidden)

    def forward(self, tokens: Tensor, context: RouterContext | None = None) -> Tensor:
        if context is None or context.expert_hidden is None:
            raise RequestError("affinity 'attentive' runs in an MoE layer only")
        # Multiplying the query by the key's matrix takes one product per token, not E.
        query = F.linear(self.body(tokens), self.query) @ self.key
        hidden = context.expert_hidden().to(query.dtype)
        return torch.einsum("gth,egth->gte", query, hidden) / math.sqrt(len(self.key))
