"""A timm model, and the same model with MoE layers in place of MLPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.model.experts import Experts, ReplacedMLP, build_experts, replaced_by
from bench.model.layers import places_of, tokens_of
from bench.model.moe import Groups, MoELayer
from bench.model.state import ModelPasses
from bench.model.weights import read_pretrained, require_all
from routers import RequestError, Router, Site, build_router


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
    """Replace modules of a timm model by MoE layers, in place; all else stays as it is.

    Args:
        model: see `places_of`.
        router: a registered name, or a callable like a router class.
        experts: a registered name.
        num_experts: E.
        layers: which modules, see `places_of`.
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
    places = places_of(model, layers)
    tokens = tokens_of(model, list(places.values()), input_size)
    make_router = router if callable(router) else _by_name(router)
    passes = ModelPasses()
    replaced = {name: replaced_by(module) for name, module in places.items()}
    with seeded(seed):
        # All experts before all routers: so they start alike whatever the router.
        behind = {
            name: build_experts(
                experts, num_experts=num_experts, replaced=shape, **(experts_options or {})
            )
            for name, shape in replaced.items()
        }
        for name, module in places.items():
            gate = make_router(
                dim=replaced[name].dim,
                num_experts=num_experts,
                tokens=_group_tokens(groups, tokens[module]),
                site=site_of(behind[name]),
                **(router_options or {}),
            )
            layer = MoELayer(gate, behind[name], groups)
            layer.passes = passes
            weight = next(module.parameters())
            model.set_submodule(name, layer.to(weight.device, weight.dtype))
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
) -> None:
    """Widen MLPs to the parameters that MoE layers with a linear gate would have in their place.

    Args: see `moefy`.
    """
    with seeded(seed):
        for mlp in places_of(model, layers).values():
            old = replaced_by(mlp)
            if not isinstance(old, ReplacedMLP):
                raise RequestError(
                    f"a baseline with the parameters of an MoE widens MLPs; model.layers = "
                    f"{layers!r} names {old.what}: leave out 'dense_params'"
                )
            with torch.device("meta"):
                behind = build_experts(
                    experts, num_experts=num_experts, replaced=old, **experts_options
                )
            gate = old.dim * sum(behind.level_sizes or (num_experts,))
            _widen(mlp, old, gate + sum(p.numel() for p in behind.parameters()))


def _widen(mlp: nn.Module, old: ReplacedMLP, parameters: int) -> None:
    """Give an MLP the hidden width at which it has this many parameters."""
    # 2·d·h weights, and h + d biases where there are any.
    hidden = round((parameters - old.bias * old.dim) / (2 * old.dim + old.bias))
    device = next(mlp.parameters()).device
    mlp.fc1 = nn.Linear(old.dim, hidden, bias=old.bias, device=device)
    mlp.fc2 = nn.Linear(hidden, old.dim, bias=old.bias, device=device)
    for linear, std in zip((mlp.fc1, mlp.fc2), old.std, strict=True):
        nn.init.normal_(linear.weight, std=std)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def site_of(experts: Experts) -> Site:
    """Describe the layer to the router that will stand in it."""
    shape = experts.replaced.token_shape
    return Site(shape if len(shape) > 1 else None, experts.level_sizes, experts.hidden_width)


def dense_model(
    name: str,
    *,
    in_chans: int,
    num_classes: int,
    seed: int,
    options: dict[str, Any],
    weights: str | None = None,
) -> nn.Module:
    """Build a timm model by name, with random weights drawn from `seed`, or with those of a file.

    Raises:
        RequestError: timm has no such model, the model takes no such option, or the file does not
            hold its weights.
    """
    from bench.model.timm_models import require_model, timm

    require_model(name)
    wanted = {"in_chans": in_chans, "num_classes": num_classes, **options}
    if weights:
        with seeded(seed):
            return _loaded(name, wanted, weights)
    try:
        with seeded(seed):
            return timm.create_model(name, **wanted)
    except (TypeError, AssertionError, ValueError) as error:
        raise RequestError(f"timm's {name!r} refuses model.options = {options}: {error}") from error


def _loaded(name: str, wanted: dict[str, Any], file: str) -> nn.Module:
    """Build the model with the weights of a file, adapted to its channels and classes."""
    from bench.model.timm_models import timm

    tensors = read_pretrained(file)
    overlay: dict[str, Any] = {"state_dict": tensors}
    usual = timm.get_pretrained_cfg(name)
    last = tensors.get(f"{usual.classifier}.weight") if usual else None
    if last is not None:
        overlay["num_classes"] = len(last)  # of the file, so that a fitting last layer is kept
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **wanted)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise RequestError(f"model.weights = {file!r} does not fit {name!r}: {error}") from error
    require_all(model, tensors, file)
    return model


def _by_name(name: str) -> Callable[..., Router]:
    return lambda **arguments: build_router(name, **arguments)


def _group_tokens(groups: Groups, per_image: int) -> int | None:
    """Return the tokens in a group; None where they depend on the batch."""
    if groups == "image":
        return per_image
    return None if groups == "batch" else int(groups)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers from `seed`, then restore torch's generator; None does nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
