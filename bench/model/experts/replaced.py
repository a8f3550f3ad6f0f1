"""What experts stand in for: an MLP of a block, the last layer, or a whole small network."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from bench.model.classifier import ImageNetwork
from bench.model.experts.plain import is_linear, require_plain_mlp
from routers import RequestError


@dataclass(frozen=True)
class ReplacedMLP:
    """The shape of a two-layer MLP, as in the blocks of a ViT.

    Attributes:
        dim: input and output width d.
        hidden: hidden width.
        activation: makes a copy of its activation, settings included.
        bias: whether its layers have biases.
        std: standard deviations of the two layers' initial weights: experts start alike.
        dropout: probabilities after the activation and after the second layer.
    """

    what: ClassVar[str] = "an MLP"

    dim: int
    hidden: int
    activation: Callable[[], nn.Module] = nn.GELU
    bias: bool = True
    std: tuple[float, float] = (0.02, 0.02)
    dropout: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, mlp: nn.Module) -> ReplacedMLP:
        """Read it off timm's `Mlp`: two linear layers, an activation, dropout.

        Raises:
            RequestError: the module does anything besides, which experts would leave out.
        """
        require_plain_mlp(mlp)
        first, second = mlp.get_submodule("fc1"), mlp.get_submodule("fc2")
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        if second.out_features != first.in_features:
            raise RequestError(
                f"cannot replace a {type(mlp).__name__} from width {first.in_features} to "
                f"{second.out_features}: experts keep the width"
            )
        return cls(
            dim=first.in_features,
            hidden=first.out_features,
            activation=partial(deepcopy, mlp.get_submodule("act")),
            bias=first.bias is not None,
            std=(_std(first, cls.std[0]), _std(second, cls.std[1])),
            dropout=(_probability(mlp, "drop1"), _probability(mlp, "drop2")),
        )

    @property
    def token_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def parameters(self) -> int:
        """The number of parameters of the replaced module."""
        return 2 * self.dim * self.hidden + self.bias * (self.hidden + self.dim)


@dataclass(frozen=True)
class ReplacedLinear:
    """The shape of a linear layer, as the last one of a classifier.

    Attributes:
        dim: input width d.
        outputs: output width.
        bias: whether it has one.
        std: standard deviation of its initial weights.
    """

    what: ClassVar[str] = "a linear layer"

    dim: int
    outputs: int
    bias: bool = True
    std: float = 0.02

    @classmethod
    def of(cls, linear: nn.Linear) -> ReplacedLinear:
        """Read it off the layer."""
        return cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            _std(linear, cls.std),
        )

    @property
    def hidden(self) -> int:
        """The width of the outputs, in place of a hidden width."""
        return self.outputs

    @property
    def token_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def parameters(self) -> int:
        """The number of parameters of the replaced module."""
        return self.outputs * (self.dim + self.bias)


@dataclass(frozen=True)
class ReplacedNetwork:
    """A small classifier of whole images (see `ImageNetwork`): a token is an image.

    Attributes:
        image_shape: (c, h, w).
        channels: of the convolution; 0 where there is none.
        widths: of the hidden layers.
        classes: probabilities that it gives.
    """

    what: ClassVar[str] = "a network"

    image_shape: tuple[int, int, int]
    channels: int
    widths: tuple[int, ...]
    classes: int

    @classmethod
    def of(cls, network: ImageNetwork) -> ReplacedNetwork:
        """Read it off the network."""
        return cls(network.image_shape, network.channels, network.widths, network.classes)

    @property
    def dim(self) -> int:
        """The number of values of an image."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def hidden(self) -> int:
        """The width of the last hidden layer."""
        return self.widths[-1]

    @property
    def token_shape(self) -> tuple[int, ...]:
        return self.image_shape

    @property
    def parameters(self) -> int:
        """The number of parameters of the replaced module."""
        network = ImageNetwork(self.image_shape, self.channels, self.widths, self.classes)
        return sum(parameter.numel() for parameter in network.parameters())


Replaced = ReplacedMLP | ReplacedLinear | ReplacedNetwork


def replaced_by(module: nn.Module) -> Replaced:
    """Describe the module that experts replace.

    Raises:
        RequestError: the module is of no kind that experts can replace.
    """
    if isinstance(module, ImageNetwork):
        return ReplacedNetwork.of(module)
    if is_linear(module):
        return ReplacedLinear.of(module)
    return ReplacedMLP.of(module)


def _std(linear: nn.Linear, default: float) -> float:
    return default if linear.weight.is_meta else linear.weight.std().item()


def _probability(mlp: nn.Module, name: str) -> float:
    drop = getattr(mlp, name, None)
    return float(drop.p) if isinstance(drop, nn.Dropout) else 0.0
