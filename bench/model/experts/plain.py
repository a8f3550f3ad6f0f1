"""Which modules are understood whole, so that experts can stand in for all that they do."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from routers import RequestError

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
"""Those that act on each number by itself and have no parameters, so that a copy is exact."""


_PARTS = {
    "fc1": _LINEAR,
    "act": _ACTIVATIONS,
    "drop1": _DROPOUT,
    "norm": frozenset({_NOTHING}),
    "fc2": _LINEAR,
    "drop2": _DROPOUT,
}
"""The children of timm's `Mlp`, in the order in which it calls them, and what each may be."""


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Tell whether a module is a linear map and nothing besides: no subclass, no hooks."""
    return _name(module) in _LINEAR and not _hooked(module)


def require_plain_mlp(mlp: nn.Module) -> None:
    """Refuse, by name, what is not exactly two linear layers, an activation and dropout."""
    kind = type(mlp).__name__
    wanted = (
        "MoE layers replace MLPs (timm.layers.Mlp) of two linear layers with an activation "
        "between them, which has no parameters, and dropout"
    )
    children = dict(mlp.named_children())
    if _name(mlp) != "timm.layers.mlp.Mlp" or children.keys() != _PARTS.keys():
        raise RequestError(f"cannot replace a {kind}: {wanted}")
    for part, child in children.items():
        if _name(child) not in _PARTS[part] or _hooked(child):
            hooked = " with hooks" if _hooked(child) else ""
            raise RequestError(f"cannot replace a {kind} whose {part} is {child}{hooked}: {wanted}")
    if (children["fc1"].bias is None) != (children["fc2"].bias is None):
        raise RequestError(f"cannot replace a {kind} with a bias in one layer alone: {wanted}")


def _name(module: nn.Module) -> str:
    """Return the qualified name of a module's class, which no subclass shares."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _hooked(module: nn.Module) -> bool:
    """Tell whether hooks change or watch what it computes, as those of `weight_norm` do."""
    return bool(module._forward_pre_hooks or module._forward_hooks)
