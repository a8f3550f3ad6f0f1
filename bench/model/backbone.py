"""Replacing some modules of a timm model by MoE layers or by wider MLPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.classifier import ImageNetwork
from bench.model.experts import Experts, ReplacedMLP, build_experts, is_linear, replaced_by
from bench.model.moe import Groups, MoELayer
from bench.model.state import ModelPasses
from routers import RequestError, Router, Site, build_router
from routers.errors import with_article

MLP_NAMES = ("mlp", "mlp_channels")
"""timm's names for the MLP of a block."""
TOKEN_MLP_NAME = "mlp_tokens"
"""timm's name for the other MLP of an MLP-Mixer block, which mixes the tokens of a channel."""


def moefy(
    model: nn.Module,
    *,
    router: str | Callable[..., Router] = "softmax_token_choice",
    experts: str = "mlp",
    num_experts: int = 8,
    shared: int = 0,
    layers: str | Sequence[int] = "last2",
    groups: Groups = "image",
    router_options: dict[str, Any] | None = None,
    experts_options: dict[str, Any] | None = None,
    input_size: tuple[int, int, int] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Replace modules of a timm model by MoE layers, in place; everything else stays the same.

    Args:
        model: the model to change, see `places_of`.
        router: a registered name, or a callable with the signature of a router class.
        shared: number of experts of the same kind that process every token besides the routed ones.
        layers: the modules to replace, see `places_of`.
        groups: the tokens that are routed together, see `MoELayer`.
        input_size: (channels, height, width) of an image; None for the model's own.
        seed: seed of the new layers' weights; with a seed, torch's global generator is untouched.

    Returns:
        The same model.

    Raises:
        RequestError: a name, an option or a layer does not exist.
    """
    places = places_of(model, layers)
    replaced = {name: replaced_by(module) for name, module in places.items()}
    dims = {module: replaced[name].dim for name, module in places.items()}
    tokens = tokens_of(model, dims, input_size)
    for name, shape in replaced.items():
        if isinstance(shape, ReplacedMLP):
            replaced[name] = replace(shape, tokens=tokens[places[name]])
    make_router = router if callable(router) else partial(build_router, router)
    make_experts = partial(build_experts, experts, **(experts_options or {}))
    passes = ModelPasses()
    with seeded(seed):
        # All experts before all routers, so that they start alike whatever the router.
        behind = {
            name: make_experts(num_experts=num_experts, replaced=shape)
            for name, shape in replaced.items()
        }
        layers_of: dict[str, MoELayer] = {}
        for name, module in places.items():
            # Tokens of a group; those of a batch are not known yet.
            known = {"image": tokens[module], "batch": None}
            gate = make_router(
                dim=replaced[name].dim,
                num_experts=num_experts,
                tokens=known[groups] if isinstance(groups, str) else groups,
                site=site_of(behind[name], getattr(model, "num_classes", None)),
                **(router_options or {}),
            )
            layers_of[name] = MoELayer(gate, behind[name], groups)
        for name, layer in layers_of.items():
            if shared:
                layer.shared = make_experts(num_experts=shared, replaced=replaced[name])
            layer.passes = passes
            weight = next(places[name].parameters())
            model.set_submodule(name, layer.to(weight.device, weight.dtype))
            if block := name.rpartition(".")[0]:
                before = model.get_submodule(block).register_forward_pre_hook
                before(layer.notice, with_kwargs=True)
    passes.open_around(model)
    return model


def widen(
    model: nn.Module,
    *,
    layers: str | Sequence[int],
    experts: str,
    num_experts: int,
    experts_options: dict[str, Any],
    seed: int,
    shared: int = 0,
) -> None:
    """Widen MLPs until they have the parameters of MoE layers with a linear gate in their place."""
    with seeded(seed):
        for mlp in places_of(model, layers).values():
            old = replaced_by(mlp)
            if not isinstance(old, ReplacedMLP):
                raise RequestError(
                    f"the baseline 'dense_params' widens MLPs, but model.layers = {layers!r} "
                    f"selects {old.what}: leave out 'dense_params'"
                )
            with torch.device("meta"):
                behind, *others = (
                    build_experts(experts, num_experts=number, replaced=old, **experts_options)
                    for number in (num_experts, shared)
                    if number
                )
            gate = old.dim * sum(behind.level_sizes or (num_experts,))
            own = (p for each in (behind, *others) for p in each.parameters())
            parameters = gate + sum(p.numel() for p in own)
            # 2·d·h weights, and h + d biases if there are any.
            hidden = round((parameters - old.bias * old.dim) / (2 * old.dim + old.bias))
            device = next(mlp.parameters()).device
            mlp.fc1 = nn.Linear(old.dim, hidden, bias=old.bias, device=device)
            mlp.fc2 = nn.Linear(hidden, old.dim, bias=old.bias, device=device)
            for linear, std in zip((mlp.fc1, mlp.fc2), old.std, strict=True):
                nn.init.normal_(linear.weight, std=std)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)


def site_of(experts: Experts, classes: int | None = None) -> Site:
    """Describe the layer to the router that it will get, in a model with `classes` classes."""
    shape = experts.replaced.token_shape
    images = shape if len(shape) > 1 else None
    levels, sizes = experts.level_sizes, experts.expert_sizes
    return Site(images, levels, experts.hidden_width, experts.kinds, sizes, classes)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch's CPU generator in a block, and restore its state after; None does nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def places_of(model: nn.Module, layers: str | Sequence[int]) -> dict[str, nn.Module]:
    """Return the modules to replace, by module name, in network order.

    Args:
        model: a timm model whose blocks have `.mlp` (ViT, DeiT, Swin, …) or, as in MLP-Mixer,
            `.mlp_channels`; or an `image_classifier`.
        layers: "head" for the last layer, "every_mlp" to include MLPs that mix tokens, else see
            `chosen_layers`.

    Raises:
        RequestError: there is nothing to replace.
    """
    if layers == "head":
        return _head(model)
    blocks = blocks_of(model, (*MLP_NAMES, TOKEN_MLP_NAME) if layers == "every_mlp" else MLP_NAMES)
    if not blocks:
        raise RequestError(f"{type(model).__name__} has no block with .mlp to replace")
    names = list(blocks)
    chosen = chosen_layers(layers, len(names))
    if not chosen:
        raise RequestError(
            f"model.layers = {layers!r} chooses no block of {type(model).__name__}, out of "
            f"{len(names)}; choose 'all'"
        )
    return {names[index]: blocks[names[index]] for index in chosen}


def blocks_of(model: nn.Module, names: tuple[str, ...] = MLP_NAMES) -> dict[str, nn.Module]:
    """Return the MLPs of a model's blocks, or its one network, by module name, in network order."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in names or isinstance(module, ImageNetwork)
    }


def chosen_layers(layers: str | Sequence[int], depth: int) -> list[int]:
    """Return the indices of the blocks to replace out of `depth`, in ascending order.

    Args:
        layers: "every2" (every second block), "last2" (the last two of those, 2106.05974), "all"
            or "every_mlp", or indices, where negative ones count from the end; `RequestError` if
            it is none of these.
    """
    every = list(range(depth))
    named = {"every2": every[1::2], "last2": every[1::2][-2:], "all": every, "every_mlp": every}
    if isinstance(layers, str):
        if layers not in named:
            raise RequestError(
                f"model.layers = {layers!r} is not 'every2', 'last2', 'all', 'every_mlp', 'head' "
                "or a list of blocks"
            )
        return named[layers]
    for index in layers:
        if not -depth <= index < depth:
            raise RequestError(
                f"model.layers names block {index}; the model's blocks are 0 to {depth - 1}"
            )
    return sorted({index % depth for index in layers})


def tokens_of(
    model: nn.Module, dims: Mapping[nn.Module, int], input_size: tuple[int, int, int] | None
) -> dict[nn.Module, int]:
    """Count the tokens of one image at each module by a forward pass of a blank image.

    Args:
        dims: the number of values of a token, by module.
        input_size: (channels, height, width) of the image; None for the model's own.

    Raises:
        RequestError: the model does not accept images of this size.
    """
    tokens: dict[nn.Module, int] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens[module] = inputs[0].numel() // dims[module]

    hooks = [place.register_forward_pre_hook(see) for place in dims]
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


def _head(model: nn.Module) -> dict[str, nn.Module]:
    last = getattr(model, "get_classifier", lambda: None)()
    if last is None or not is_linear(last):
        what = "unknown" if last is None else with_article(type(last).__name__)
        raise RequestError(
            f"model.layers = 'head': the last layer of {type(model).__name__} is {what}, not a "
            "plain linear layer"
        )
    return {name: module for name, module in model.named_modules() if module is last}


def _own_input_size(model: nn.Module) -> tuple[int, int, int]:
    from timm.layers.patch_embed import PatchEmbed

    for module in model.modules():
        if isinstance(module, PatchEmbed) and module.img_size is not None:
            return module.proj.in_channels, *module.img_size
        if isinstance(module, ImageNetwork):
            return module.image_shape
    channels, height, width = model.pretrained_cfg["input_size"]  # type: ignore[index]
    return channels, height, width
