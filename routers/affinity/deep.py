"""Affinities with hidden layers: a body, and one vector an output on top of it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from routers.affinity.base import Affinity, lecun_normal, register_affinity
from routers.errors import RequestError
from routers.hyper import hyper


class Deep(Affinity):
    """The base of affinities with a deep body, which a subclass makes.

    Attributes:
        body: (g, t, d) -> (g, t, h), the hidden vector that logits are linear in.
        width: h.
    """

    body: nn.Module
    width: int

    def build(self) -> None:
        self.body, self.width = self.build_body()
        self.outer = lecun_normal(self.outputs, self.width)

    def build_body(self) -> tuple[nn.Module, int]:
        """Return the body and its width."""
        raise TypeError(f"affinity {type(self).__name__!r} defines no build_body(self)")

    def forward(self, tokens: Tensor, context: object = None) -> Tensor:
        return F.linear(self.body(tokens), self.outer)

    def output(self) -> nn.Parameter:
        return self.outer


@register_affinity("mlp", family="affinity", source="two layers")
class TwoLayer(Deep):
    """Two layers with tanh between them: tanh(xU + b)V.

    Both matrices are initialised with variance 1 over their inputs, the bias with 0.
    """

    hidden: int | None = hyper(None, "Width of the hidden layer; none gives d / 4.", ge=1)

    def build_body(self) -> tuple[nn.Module, int]:
        width = self.hidden or max(1, self.dim // 4)
        return nn.Sequential(_linear(self.dim, width), nn.Tanh()), width


@register_affinity("conv", family="affinity", source="arXiv 2302.14703")
class Convolution(Deep):
    """A small convolutional network on a token that is an image.

    One 3 × 3 convolution, ReLU, 2 × 2 maximum, then fully connected layers with ReLU, and the
    logits. The defaults are those of the paper's gate for MNIST.
    Known limit: it needs tokens that are images, as in the model `image_classifier`.
    """

    channels: int = hyper(1, "Channels of the convolution.", ge=1)
    hidden: list[int] = hyper(
        [128, 32], "Widths of the fully connected layers; the last is what the logits read."
    )

    def build_body(self) -> tuple[nn.Module, int]:
        shape = self.site.token_shape
        if shape is None or len(shape) != 3 or not self.hidden:
            raise RequestError(
                "affinity 'conv' needs tokens that are images (model.name = image_classifier) and "
                f"at least one hidden layer; here a token has shape {shape or (self.dim,)} and "
                f"hidden = {self.hidden}: use the affinity 'mlp'"
            )
        return ConvBody(shape, self.channels, self.hidden), self.hidden[-1]


class ConvBody(nn.Module):
    """Convolution, maximum, fully connected layers: (…, c·h·w) -> (…, hidden[-1]).

    Args:
        shape: (c, h, w) of an image, at least 4 pixels a side.
        channels: of the 3 × 3 convolution, which has no padding.
        hidden: widths of the fully connected layers.
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


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Build a linear layer with weights of variance 1 / inputs and a bias of 0."""
    linear = nn.Linear(inputs, outputs)
    linear.weight = lecun_normal(outputs, inputs)
    nn.init.zeros_(linear.bias)
    return linear
