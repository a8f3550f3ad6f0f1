"""Which modules of a timm model become MoE layers, and what they see there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.model.classifier import ImageNetwork
from bench.model.experts import is_linear, replaced_by
from bench.model.moe import MoELayer
from routers import RequestError
from routers.errors import with_article

MLP_NAMES = ("mlp", "mlp_channels")
"""What timm calls the MLP of a block; MLP-Mixer has a second one, over tokens."""


def moe_layers(model: nn.Module) -> dict[str, MoELayer]:
    """Return the MoE layers of a model by module name, in network order; none in a dense model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}


def places_of(model: nn.Module, layers: str | Sequence[int]) -> dict[str, nn.Module]:
    """Return the modules to replace by module name, in network order.

    Args:
        model: a timm model whose blocks have `.mlp` (ViT, DeiT, Swin, …) or, as MLP-Mixer,
            `.mlp_channels`, or an `image_classifier`.
        layers: "head" for the last layer, else see `chosen_layers`.

    Raises:
        RequestError: there is nothing to replace.
    """
    if layers == "head":
        return _head(model)
    blocks = blocks_of(model)
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


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the MLPs of a model's blocks, or its one network, by module name, in network order."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in MLP_NAMES or isinstance(module, ImageNetwork)
    }


def chosen_layers(layers: str | Sequence[int], depth: int) -> list[int]:
    """Return the indices of the blocks to replace, ascending.

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
                f"model.layers = {layers!r} is not 'every2', 'last2', 'all', 'head' or a list of "
                "blocks"
            )
        return named[layers]
    for index in layers:
        if not -depth <= index < depth:
            raise RequestError(
                f"model.layers names block {index}; the model's blocks are 0 to {depth - 1}"
            )
    return sorted({index % depth for index in layers})


def tokens_of(
    model: nn.Module, places: list[nn.Module], input_size: tuple[int, int, int] | None
) -> dict[nn.Module, int]:
    """Count the tokens of one image at each module, in a forward pass of one blank image.

    Raises:
        RequestError: the model does not take images of this size.
    """
    tokens: dict[nn.Module, int] = {}
    dims = {place: replaced_by(place).dim for place in places}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens[module] = inputs[0].numel() // dims[module]

    hooks = [place.register_forward_pre_hook(see) for place in places]
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
