"""All that a module and its optimiser hold, as named tensors, and the way back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also the buffers that `state_dict` leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def restore_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the tensors of `module_state` into a module of the same making, on its device.

    Raises:
        ValueError: they are not those of such a module.
    """
    parameters = dict(module.named_parameters())
    device = next(iter(parameters.values())).device
    if lacking := parameters.keys() - state.keys():
        raise ValueError(f"{min(lacking)} is missing")
    for name, tensor in state.items():
        if name in parameters:
            if parameters[name].shape != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
            parameters[name].copy_(tensor)
        else:
            _set_buffer(module, name, tensor.to(device))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`NUMBER.NAME` -> what the optimiser keeps of that parameter."""
    kept = optimizer.state_dict()["state"]
    return {f"{number}.{name}": kept[number][name] for number in kept for name in kept[number]}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put the tensors of `optimizer_state` into an optimiser of the same parameters."""
    kept: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        number, _, name = key.partition(".")
        kept.setdefault(int(number), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": kept, "param_groups": groups})


def _set_buffer(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
        old = owner._buffers[leaf]
    except (AttributeError, KeyError):
        raise ValueError(f"{name} is unknown") from None
    if old is not None and old.shape == tensor.shape:
        old.copy_(tensor)  # it may be shared
    else:  # it was made, or has grown, along the way
        owner._buffers[leaf] = tensor
