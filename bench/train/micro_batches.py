"""Where training in micro-batches, whose gradients are summed, is the same optimisation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.config import TrialSpec
from bench.model import moe_layers
from routers import Router
from routers.errors import RequestError, with_article


def refuse_other_optimisation(spec: TrialSpec, model: nn.Module) -> None:
    """Refuse `train.micro_batches` where cutting the batch would change what is computed.

    Args:
        spec: the trial.
        model: its model.

    Raises:
        RequestError: cutting the batch would change the result; the message says why.
    """
    parts = spec.train.micro_batches
    if reason := why_not_cut(spec, model, parts):
        raise RequestError(
            f"train.micro_batches = {parts} would change what is computed: {reason}; leave it at 1"
        )


def why_not_cut(spec: TrialSpec, model: nn.Module, parts: int) -> str | None:
    """Say why training in micro-batches would be another optimisation.

    Args:
        spec: the trial.
        model: its model.
        parts: the number of micro-batches of each batch.

    Returns:
        The reason; None where it is the same optimisation, but for rounding and for which random
        numbers are drawn.
    """
    if parts == 1:
        return None
    if (size := spec.train.batch_size) < parts:
        return f"train.batch_size = {size} has no {parts} parts"
    for name, module in model.named_modules():
        own = [buffer for buffer, _ in module.named_buffers(recurse=False)]
        running = any(buffer.startswith("running_") for buffer in own)
        if running or isinstance(module, _BatchNorm):
            return f"{name}, {with_article(type(module).__name__)}, takes statistics of the batch"
    layers = moe_layers(model)
    if not layers:
        return None
    if spec.model.groups != "image":
        return f"model.groups = {spec.model.groups!r} routes tokens of several images together"
    if weighed := [name for name, weight in spec.train.losses.items() if weight]:
        return f"the loss {weighed[0]!r} is taken over the whole batch"
    for name, layer in layers.items():
        if type(layer.router).after_step is not Router.after_step:
            return f"the router {type(layer.router).__name__} is told the loads of the whole batch"
        # Parameters learn by the gradient alone; a buffer may follow the batches.
        for buffer, _ in layer.named_buffers():
            return f"{name}.{buffer} may keep statistics of the batch"
    return None
