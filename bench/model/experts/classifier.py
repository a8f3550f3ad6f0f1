"""Stacked small classifiers of whole images, one for each expert."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.model.classifier import feature_sizes
from bench.model.experts.base import Experts, register_experts
from bench.model.experts.mlp import affine
from bench.model.experts.replaced import Replaced, ReplacedNetwork


@register_experts("classifier", family="network", source="Jacobs et al. 1991, arXiv 2302.14703")
class ClassifierExperts(Experts):
    """Each expert is the whole network that it replaces: images to class probabilities.

    The experts' weights are stacked; their convolutions run as one grouped convolution. Outputs
    are probabilities, so that a mixture of experts is a mixture of their distributions.
    Cost: E networks. Weights are initialised as torch's own layers are.
    """

    replaces = (ReplacedNetwork,)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedNetwork)  # as `replaces` says
        self.hidden_width = replaced.widths[-1]
        self.kernel = self.kernel_bias = None
        if replaced.channels:
            image_channels = replaced.image_shape[0]
            shape = (num_experts * replaced.channels, image_channels, 3, 3)
            self.kernel = uniform(shape, 9 * image_channels)
            self.kernel_bias = uniform(shape[:1], 9 * image_channels)
        sizes = feature_sizes(replaced.image_shape, replaced.channels, replaced.widths)
        layers = list(pairwise([*sizes, replaced.classes]))
        self.weights = nn.ParameterList(uniform((num_experts, i, o), i) for i, o in layers)
        self.biases = nn.ParameterList(uniform((num_experts, 1, o), i) for i, o in layers)

    def activations(self, slot_inputs: Tensor) -> Tensor:
        x = self._features(slot_inputs)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = affine(x, weight, bias).relu()
        return x

    def outputs(self, activations: Tensor) -> Tensor:
        return affine(activations, self.weights[-1], self.biases[-1]).softmax(-1)

    def _features(self, slot_inputs: Tensor) -> Tensor:
        """Map (E, g, s, c, h, w) -> (E, g, s, features), by the convolution where there is one."""
        if self.kernel is None:
            return slot_inputs.flatten(3)
        experts, groups, slots = slot_inputs.shape[:3]
        # The experts' images side by side, as channels of one image: (g·s, E·c, h, w).
        images = slot_inputs.flatten(1, 2).transpose(0, 1).flatten(1, 2)
        seen = F.conv2d(images, self.kernel, self.kernel_bias, groups=experts).relu()
        pooled = F.max_pool2d(seen, 2).unflatten(1, (experts, -1))
        return pooled.transpose(0, 1).flatten(2).unflatten(1, (groups, slots))


def uniform(shape: tuple[int, ...], inputs: int) -> nn.Parameter:
    """Initialise uniformly in ±1 / √inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))
