"""A timm model, and the same model with MoE layers in place of MLPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from bench.model.experts import ReplacedMLP, build_experts
from bench.model.moe import Groups, MoELayer
from bench.model.passes import PassState
from routers import RequestError, Router, build_router

MLP_NAMES = ("mlp", "mlp_channels")
"""What timm calls the MLP of a block; MLP-Mixer has a second one, over tokens."""


def mlps_of(model: nn.Module) -> dict[str, nn.Module]:
    """The MLPs of a timm model's blocks by module name, in network order."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in MLP_NAMES
    }


def moe_layers(model: nn.Module) -> dict[str, MoELayer]:
    """The MoE layers of a model by module name, in network order; none in a dense model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}


def chosen_layers(layers: str | Sequence[int], depth: int) -> list[int]:
    """Indices of the blocks to replace, ascending.

    Args:
        layers: "every2" (each second block), "last2" (the last two of those, 2106.05974), "all",
            or indices, negative ones from the end.
        depth: blocks of the model.

    Raises:
        RequestError: a name that is none of these, or an index that the model does not have.
    """
    every2 = list(range(1, depth, 2))
    named = {"every2": every2, "last2": every2[-2:], "all": list(range(depth))}
    if isinstance(layers, str):
        if layers not in named:
            raise RequestError(
                f"model.layers = {layers!r} is not 'every2', 'last2', 'all' or a list of blocks"
            )
        return named[layers]
    for index in layers:
        if not -depth <= index < depth:
            raise RequestError(
                f"model.layers names block {index}; the model's blocks are 0 to {depth - 1}"
            )
    return sorted({index % depth for index in layers})


def moefy(
    model: nn.Module,
    *,
    router: str | Callable[..., Router] = "softmax_token_choice",
    experts: str = "mlp",
    num_experts: int = 8,
    layers: str | Sequence[int] = "last2",
    groups: Groups = "image",
    router_options: dict[str, Any] | None = None,
    experts_options: dict[str, Any] | None = None,
    input_size: tuple[int, int, int] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Replace MLPs of a timm model by MoE layers, in place; all else stays as it is.

    Args:
        model: any timm model whose blocks have `.mlp` (ViT, DeiT, Swin, …) or, as MLP-Mixer,
            `.mlp_channels`.
        router: a registered name, or a callable like a router class.
        experts: a registered name.
        num_experts: E.
        layers: see `chosen_layers`.
        groups: see `MoELayer`.
        router_options: hyper-parameters of the router.
        experts_options: hyper-parameters of the experts.
        input_size: (channels, height, width) of an image; the model's own where None.
        seed: of the new layers' weights, which then leave torch's global generator untouched.

    Returns:
        The same model.

    Raises:
        RequestError: a name, an option or a layer that does not exist.
    """
    mlps = mlps_of(model)
    names = list(mlps)
    if not names:
        raise RequestError(f"{type(model).__name__} has no block with .mlp to replace")
    chosen = [names[index] for index in chosen_layers(layers, len(names))]
    tokens = tokens_of(model, [mlps[name] for name in chosen], input_size)
    make_router = router if callable(router) else _by_name(router)
    state = PassState()
    replaced = {name: ReplacedMLP.of(mlps[name]) for name in chosen}
    with _seeded(seed):
        # All experts before all routers: so they start alike whatever the router.
        behind = {
            name: build_experts(
                experts, num_experts=num_experts, replaced=shape, **(experts_options or {})
            )
            for name, shape in replaced.items()
        }
        for name, shape in replaced.items():
            gate = make_router(
                dim=shape.dim,
                num_experts=num_experts,
                tokens=_group_tokens(groups, tokens[mlps[name]]),
                **(router_options or {}),
            )
            layer = MoELayer(gate, behind[name], groups)
            layer.pass_state = state
            weight = next(mlps[name].parameters())
            model.set_submodule(name, layer.to(weight.device, weight.dtype))
    return model


def widen(
    model: nn.Module,
    *,
    layers: str | Sequence[int],
    experts: str,
    num_experts: int,
    experts_options: dict[str, Any],
    seed: int,
) -> None:
    """Widen MLPs to the parameters that MoE layers with a linear gate would have in their place.

    Args: see `moefy`.
    """
    mlps = mlps_of(model)
    names = list(mlps)
    with _seeded(seed):
        for index in chosen_layers(layers, len(names)):
            mlp = mlps[names[index]]
            old = ReplacedMLP.of(mlp)
            with torch.device("meta"):
                behind = build_experts(
                    experts, num_experts=num_experts, replaced=old, **experts_options
                )
            gate = old.dim * num_experts
            target = gate + sum(p.numel() for p in behind.parameters())
            # 2·d·h weights, and h + d biases where there are any.
            hidden = round((target - old.bias * old.dim) / (2 * old.dim + old.bias))
            device = next(mlp.parameters()).device
            mlp.fc1 = nn.Linear(old.dim, hidden, bias=old.bias, device=device)
            mlp.fc2 = nn.Linear(hidden, old.dim, bias=old.bias, device=device)
            for linear, std in zip((mlp.fc1, mlp.fc2), old.std, strict=True):
                nn.init.normal_(linear.weight, std=std)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)


def dense_model(
    name: str, *, in_chans: int, num_classes: int, seed: int, options: dict[str, Any]
) -> nn.Module:
    """A timm model by name, with random weights drawn from `seed`.

    Raises:
        RequestError: timm has no such model, or the model takes no such option.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise RequestError(
            f"timm has no model {name!r}; there is {', '.join(close) or 'none near'}"
        )
    try:
        with _seeded(seed):
            return timm.create_model(name, in_chans=in_chans, num_classes=num_classes, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise RequestError(f"timm's {name!r} refuses model.options = {options}: {error}") from error


def _by_name(name: str) -> Callable[..., Router]:
    return lambda **arguments: build_router(name, **arguments)


def _group_tokens(groups: Groups, per_image: int) -> int | None:
    """Tokens in a group where that is known before the batch is."""
    if groups == "image":
        return per_image
    return None if groups == "batch" else int(groups)


def tokens_of(
    model: nn.Module, mlps: list[nn.Module], input_size: tuple[int, int, int] | None
) -> dict[nn.Module, int]:
    """Tokens of one image at each MLP, seen in a forward pass of one blank image.

    Raises:
        RequestError: the model does not take images of this size.
    """
    tokens: dict[nn.Module, int] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens[module] = inputs[0].shape[1:-1].numel()

    hooks = [mlp.register_forward_pre_hook(see) for mlp in mlps]
    weight = next(model.parameters())
    shape = input_size or _own_input_size(model)
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype))
    except (AssertionError, RuntimeError) as error:
        size = " x ".join(map(str, shape))
        raise RequestError(
            f"{type(model).__name__} does not take images of {size}: {error} "
            "Set model.options.img_size, or data.image_size and data.channels"
        ) from error
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return tokens


def _own_input_size(model: nn.Module) -> tuple[int, int, int]:
    for module in model.modules():
        if isinstance(module, PatchEmbed) and module.img_size is not None:
            return module.proj.in_channels, *module.img_size
    channels, height, width = model.pretrained_cfg["input_size"]  # type: ignore[index]
    return channels, height, width


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` inside, and leave torch's generator as it was; None does nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
