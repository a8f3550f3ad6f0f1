"""`image_classifier`: a small network on whole images, which experts can replace.

This is the set-up of 2302.14703, where an expert is a classifier and a token is an image. It is a
timm model like any other: `--set model.name=image_classifier --set model.options.img_size=28`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 1e-30
"""Lower bound of probabilities, so that a probability of 0 has a finite logarithm."""


def feature_sizes(image_shape: Sequence[int], channels: int, widths: Sequence[int]) -> list[int]:
    """Return the widths along the fully connected layers, starting with the image's features."""
    image_channels, height, width = image_shape
    if not channels:
        return [image_channels * height * width, *widths]
    return [channels * ((height - 2) // 2) * ((width - 2) // 2), *widths]


class ImageNetwork(nn.Module):
    """A network from images to class probabilities: (n, c, h, w) -> (n, classes).

    A 3 × 3 convolution without padding, ReLU and 2 × 2 max-pooling; then fully connected layers
    with ReLU; then a softmax. `image_classifier`'s defaults give 2302.14703's expert for MNIST.

    Args:
        image_shape: shape of an image, (c, h, w).
        channels: channels of the convolution; 0 omits it, which leaves an MLP on the pixels.
        widths: widths of the hidden layers, at least one.
        classes: number of classes.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, widths: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.image_shape, self.channels = image_shape, channels
        self.widths, self.classes = tuple(widths), classes
        self.convolution = nn.Conv2d(image_shape[0], channels, 3) if channels else None
        sizes = feature_sizes(image_shape, channels, widths)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if self.convolution is not None:
            x = F.max_pool2d(self.convolution(x).relu(), 2)
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(x).softmax(-1)


class ImageClassifier(nn.Module):
    """A classifier whose logits are the log-probabilities of a network or a mixture of networks.

    Experts mix probabilities, not logits: the likelihood of a mixture is the mixture of the
    likelihoods (Jacobs et al. 1991).
    """

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.classes

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.network(images)
        return probabilities.float().clamp(min=SMALLEST).log()


def image_classifier(
    pretrained: bool = False,
    *,
    in_chans: int = 1,
    num_classes: int = 10,
    img_size: int = 28,
    channels: int = 1,
    hidden: Sequence[int] = (5, 32),
    **timm_options: Any,
) -> ImageClassifier:
    """Build a small network on whole images, as timm would; it has no pretrained weights.

    Args:
        img_size: pixels per side.
        channels: see `ImageNetwork`.
        hidden: widths of the hidden layers.
        timm_options: options that timm passes to every model; others are an error.
    """
    set_by_user = [name for name in timm_options if not name.startswith(("pretrained", "cache"))]
    if pretrained or set_by_user or not hidden or img_size < 4:
        wrong = set_by_user or ["pretrained" if pretrained else "hidden and img_size of 4 or more"]
        raise TypeError(f"image_classifier: check {', '.join(wrong)}; it takes channels, hidden")
    network = ImageNetwork((in_chans, img_size, img_size), channels, hidden, num_classes)
    return ImageClassifier(network)
