"""What experts replace: the MLP of a block, the last layer, or a whole small network.

A module is replaced only if everything that it does is known, so that nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeGuard

from torch import nn

from bench.model.classifier import ImageNetwork
from routers import RequestError


@dataclass(frozen=True)
class ReplacedMLP:
    """The shape of a two-layer MLP, as in the blocks of a ViT.

    Attributes:
        dim: input and output width d.
        hidden: hidden width.
        activation: returns a copy of its activation, settings included.
        bias: whether its layers have biases.
        std: standard deviations of the two layers' initial weights, which experts also start with.
        dropout: probabilities after the activation and after the second layer.
        tokens: tokens of an image; None if unknown.
    """

    what: ClassVar[str] = "an MLP"

    dim: int
    hidden: int
    activation: Callable[[], nn.Module] = nn.GELU
    bias: bool = True
    std: tuple[float, float] = (0.02, 0.02)
    dropout: tuple[float, float] = (0.0, 0.0)
    tokens: int | None = None

    @property
    def token_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def parameters(self) -> int:
        """The number of parameters of the replaced module."""
        return 2 * self.dim * self.hidden + self.bias * (self.hidden + self.dim)


@dataclass(frozen=True)
class ReplacedLinear:
    """The shape of a linear layer such as a classifier's last; `std` is its initial weights'."""

    what: ClassVar[str] = "a linear layer"

    dim: int
    outputs: int
    bias: bool = True
    std: float = 0.02

    @property
    def hidden(self) -> int:
        """The output width, which stands for the hidden width."""
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
        token_shape: (c, h, w) of an image.
        channels: channels of the convolution; 0 if there is none.
        widths: widths of the hidden layers.
        classes: number of classes.
    """

    what: ClassVar[str] = "a network"

    token_shape: tuple[int, int, int]
    channels: int
    widths: tuple[int, ...]
    classes: int

    @property
    def dim(self) -> int:
        """The number of values of an image."""
        channels, height, width = self.token_shape
        return channels * height * width

    @property
    def hidden(self) -> int:
        """The width of the last hidden layer."""
        return self.widths[-1]


Replaced = ReplacedMLP | ReplacedLinear | ReplacedNetwork

_LINEAR = frozenset({"torch.nn.modules.linear.Linear", "timm.layers.linear.Linear"})
_NOTHING = "torch.nn.modules.linear.Identity"
_DROPOUT = frozenset({"torch.nn.modules.dropout.Dropout", _NOTHING})
_ACTIVATIONS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "torch.nn.modules.activation": "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh "
        "LeakyReLU LogSigmoid Mish ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh "
        "Tanhshrink Threshold",
        "timm.layers.activations": "GELU GELUTanh HardMish HardSigmoid HardSwish Mish QuickGELU "
        "Sigmoid Swish Tanh",
        "timm.layers.activations_me": "HardMishMe HardSigmoidMe HardSwishMe MishMe SwishMe",
    }.items()
    for name in names.split()
)
"""Elementwise activations without parameters, so that a copy is exact."""
_PARTS = {
    "fc1": _LINEAR,
    "act": _ACTIVATIONS,
    "drop1": _DROPOUT,
    "norm": frozenset({_NOTHING}),
    "fc2": _LINEAR,
    "drop2": _DROPOUT,
}
"""The children of timm's `Mlp`, in calling order, each with the classes that it may have."""


def replaced_by(module: nn.Module) -> Replaced:
    """Describe a module that experts are to replace.

    Raises:
        RequestError: experts cannot replace a module of this kind, or it does something more that
            they would leave out.
    """
    if isinstance(module, ImageNetwork):
        return ReplacedNetwork(module.image_shape, module.channels, module.widths, module.classes)
    if is_linear(module):
        std = _std(module, ReplacedLinear.std)
        return ReplacedLinear(module.in_features, module.out_features, module.bias is not None, std)
    _require_plain_mlp(module)
    parts = dict(module.named_children())
    first, second = parts["fc1"], parts["fc2"]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    if second.out_features != first.in_features:
        raise RequestError(
            f"cannot replace a {type(module).__name__} from width {first.in_features} to "
            f"{second.out_features}: experts keep the width"
        )
    return ReplacedMLP(
        dim=first.in_features,
        hidden=first.out_features,
        activation=partial(deepcopy, parts["act"]),
        bias=first.bias is not None,
        std=(_std(first, ReplacedMLP.std[0]), _std(second, ReplacedMLP.std[1])),
        dropout=(_probability(parts["drop1"]), _probability(parts["drop2"])),
    )


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Tell whether a module is a plain linear map: not a subclass, and without hooks."""
    return _class_of(module) in _LINEAR and not _hooked(module)


def _require_plain_mlp(mlp: nn.Module) -> None:
    """Raise an error unless a module is exactly two linear layers, an activation and dropout."""
    kind = type(mlp).__name__
    wanted = (
        "MoE layers replace MLPs (timm.layers.Mlp) of two linear layers with an activation "
        "between them, which has no parameters, and dropout"
    )
    children = dict(mlp.named_children())
    if _class_of(mlp) != "timm.layers.mlp.Mlp" or children.keys() != _PARTS.keys():
        raise RequestError(f"cannot replace a {kind}: {wanted}")
    for part, child in children.items():
        if _class_of(child) not in _PARTS[part] or _hooked(child):
            hooked = " with hooks" if _hooked(child) else ""
            raise RequestError(f"cannot replace a {kind} whose {part} is {child}{hooked}: {wanted}")
    if (children["fc1"].bias is None) != (children["fc2"].bias is None):
        raise RequestError(f"cannot replace a {kind} with a bias in one layer alone: {wanted}")


def _class_of(module: nn.Module) -> str:
    """Return the qualified name of a module's class, which subclasses do not share."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _hooked(module: nn.Module) -> bool:
    """Tell whether hooks change or observe what a module computes, as those of `weight_norm` do."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _std(linear: nn.Linear, default: float) -> float:
    return default if linear.weight.is_meta else linear.weight.std().item()


def _probability(dropout: nn.Module) -> float:
    return float(dropout.p) if isinstance(dropout, nn.Dropout) else 0.0
