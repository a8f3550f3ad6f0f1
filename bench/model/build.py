"""The model that training starts from: built from a trial's description or from another model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import RouterConfig, TrialSpec
from bench.data import Purpose, ShapedData, random_bits
from bench.model.backbone import moefy, tokens_of, widen
from bench.model.calibration import Calibration
from bench.model.moe import moe_layers
from routers import ROUTERS, Baseline, Router
from routers.errors import BenchError, RequestError
from routers.registry import Registry

TRANSFORMS = Registry("transform")
"""Functions `(parent, child) -> None` of two models on one device: the trained parent, which stays
unchanged, and the child with its initial weights. They copy what they need into the child, in
place, and freeze (`requires_grad_(False)`) what is not to be trained. A function with a keyword
`calibration` receives a `Calibration` of the parent."""
register_transform = TRANSFORMS.register


@dataclass(frozen=True, eq=False)
class Parent:
    """The trial that another one starts from.

    Attributes:
        model: its trained model, on the CPU.
        start: returns that model as it was before its first step; None if it was not trained.
    """

    model: nn.Module
    start: Callable[[], nn.Module] | None = None


def moe_seed(seed: int, aa_replicate: int = 0) -> int:
    """Return the seed of the weights of a trial's MoE layers, separate from that of all others.

    The rest of the model thus starts with the same weights whatever the router, and in an A/A pair.
    """
    # A hash, since torch's CPU generator uses only the lowest 32 bits of a seed.
    return int(random_bits(Purpose.MOE_WEIGHTS, seed, aa_replicate)[0])


def trial_model(
    spec: TrialSpec, data: ShapedData, *, router: RouterConfig | None = None
) -> nn.Module:
    """Build a trial's model with MoE layers, or a dense one if the router is a baseline.

    Args:
        spec: the trial; its seed determines all weights, those of the MoE layers through a
            separate stream.
        router: a router to use instead of the trial's own.

    Returns:
        The model with its initial weights, float32, on torch's default device.

    Raises:
        RequestError: a name or an option does not exist.
    """
    from bench.model.timm_models import dense_model

    router, experts, size = router or spec.router, spec.experts, data.image_shape
    model = dense_model(spec.model, in_chans=size[0], num_classes=data.num_classes, seed=spec.seed)
    layers: dict[str, Any] = {
        "layers": spec.model.layers,
        "experts": experts.name,
        "num_experts": experts.num_experts,
        "experts_options": dict(experts.options),
        "shared": experts.shared,
        "seed": moe_seed(spec.seed, spec.twin),
    }
    target = ROUTERS.get(router.name).target
    if not issubclass(target, Baseline):
        layers |= {"router_options": dict(router.options), "groups": spec.model.groups}
        return moefy(model, router=router.name, input_size=size, **layers)
    tokens_of(model, {}, size)
    if target.widen:
        widen(model, **layers)
    return model


def starting_model(spec: TrialSpec, data: ShapedData, parent: Parent | None) -> nn.Module:
    """Build a trial's model as it is before its first training step, on torch's default device.

    `parent` is `spec.parent`, trained; None if the trial is not derived.

    Raises:
        BenchError: the parent is missing.
        RequestError: the transform does not fit the two models.
    """
    model = trial_model(spec, data)
    if spec.transform is None:
        _refuse_unadapted(model)
    else:
        if parent is None:
            raise BenchError("a derived trial is trained from its parent's model; none was given")
        transform, more = TRANSFORMS.get(spec.transform).target, {}
        if "calibration" in inspect.signature(transform, follow_wrapped=False).parameters:
            start = parent.start or (lambda: parent.model)
            size = spec.train.batch_size
            more["calibration"] = Calibration(parent.model, start, data, size, spec.seed)
        transform(parent.model, model, **more)
    return model


@register_transform("distill", source="arXiv 2302.14703")
def distill(parent: nn.Module, child: nn.Module) -> None:
    """Copy the parent's weights; then train only the gates.

    A plain gate can thus take over the experts that were trained with an expensive gate.

    Raises:
        RequestError: anything besides the gates has no counterpart by name and shape, or no gate
            of the child learns.
    """
    taken, routers = _copy_shared(parent, child), _routers(child)
    learning = [p for router in routers for p in router.parameters() if p.requires_grad]
    child.requires_grad_(False)
    if not learning:
        raise RequestError(
            "transform 'distill' trains only the gates, but the child has none that learns: "
            "choose another router, or the transform 'fine_tune'"
        )
    for parameter in learning:
        parameter.requires_grad_(True)
    _require(parent, child, taken, routers)


@register_transform("fine_tune")
def fine_tune(parent: nn.Module, child: nn.Module) -> None:
    """Copy the parent's weights; then train everything.

    The gates and the last layer may be new, for another router or other classes.

    Raises:
        RequestError: anything else has no counterpart by name and shape.
    """
    last = getattr(child, "get_classifier", nn.Identity)()
    _require(parent, child, _copy_shared(parent, child), [*_routers(child), last])


@register_transform("adapt", source="arXiv 2501.10062")
def adapt(parent: nn.Module, child: nn.Module) -> None:
    """Copy a dense parent's weights, freeze them, and train experts that adapt its MLPs.

    Gates, experts and the last layer are trained; everything else is frozen.

    Raises:
        RequestError: the experts adapt nothing, the parent has no matching MLP in the place of an
            MoE layer, or anything else has no counterpart by name and shape.
    """
    layers, last = moe_layers(child), getattr(child, "get_classifier", nn.Identity)()
    learning = [*_routers(child), *(layer.experts for layer in layers.values()), last]
    _require(parent, child, _copy_shared(parent, child), learning)
    child.requires_grad_(False)
    for module in learning:
        module.requires_grad_(True)
    for name, layer in layers.items():
        if (adapted := layer.experts.adapted) is None:
            raise RequestError(
                "transform 'adapt' needs experts that adapt a frozen MLP, but "
                f"{layer.experts.name!r} do not: set experts.name = lora, or choose the transform "
                "'fine_tune'"
            )
        weights = parent.get_submodule(name).state_dict()
        if _shapes(weights) != _shapes(adapted.state_dict()):
            raise RequestError(
                f"transform 'adapt' takes the MLP {name} of a dense parent, but this parent has "
                "none of its shape there: choose the parent 'dense', of the same model"
            )
        adapted.load_state_dict(weights)
        adapted.requires_grad_(False)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _refuse_unadapted(model: nn.Module) -> None:
    """Raise an error for experts that adapt an MLP in a trial without a parent that trained it."""
    for layer in moe_layers(model).values():
        if layer.experts.adapted is not None:
            raise RequestError(
                f"experts {layer.experts.name!r} adapt the MLPs of a trained dense model: derive "
                "the trial from one, in a part with `parent: {router: dense, transform: adapt}`"
            )


def _routers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, Router)]


def _require(
    parent: nn.Module, child: nn.Module, taken: set[str], spared: Sequence[nn.Module]
) -> None:
    """Raise an error if the child has new parameters outside the modules that may be new."""
    new = {id(parameter) for module in spared for parameter in module.parameters()}
    lacking = [n for n, p in child.named_parameters() if n not in taken and id(p) not in new]
    if lacking:
        raise RequestError(
            f"parameters besides the gates have no counterpart in the parent ({len(lacking)} of "
            f"{type(parent).__name__}, the first is {lacking[0]!r}): give the child the model, "
            "data and experts of its parent"
        )


@torch.no_grad()
def _copy_shared(parent: nn.Module, child: nn.Module) -> set[str]:
    """Copy the parameters and buffers that both have with the same shape; return their names."""
    source, target = parent.state_dict(), child.state_dict()
    names = {n for n in target if n in source and source[n].shape == target[n].shape}
    if not names:
        raise RequestError(
            f"none of the child's {len(target)} parameters and buffers has the name and shape of "
            f"one of its parent's {len(source)}"
        )
    for name in names:
        target[name].copy_(source[name])
    return names
