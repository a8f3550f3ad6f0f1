"""When a batch may be split: if training is the same optimisation as with whole batches."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.config import TrainConfig, TrialSpec
from bench.model import moe_layers
from routers import LOSSES, Router, listens, passes_of
from routers.errors import RequestError, with_article


def refuse_other_optimisation(spec: TrialSpec, model: nn.Module) -> None:
    """Refuse `train.ranks` and `train.micro_batches` if they would change what is computed.

    Raises:
        RequestError: they would; the message says why.
    """
    train = spec.train
    if reason := why_not_cut(spec, model, train.ranks * train.micro_batches):
        name = "ranks" if train.ranks > 1 else "micro_batches"
        raise RequestError(
            f"train.{name} = {getattr(train, name)} would change what is computed: {reason}; "
            "leave it at 1"
        )


def why_not_cut(spec: TrialSpec, model: nn.Module, parts: int) -> str | None:
    """Return why training with batches split into `parts` would be another optimisation.

    None if it is the same, except for rounding and for which random numbers are drawn.
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
    if spanning := next((each.router for each in layers.values() if each.router.spans_batch), None):
        return f"the router {type(spanning).__name__} routes the tokens of the whole batch together"
    if spec.model.groups != "image":
        return f"model.groups = {spec.model.groups!r} routes tokens of several images together"
    if uncut := [name for name, loss in weighed_losses(spec.train) if not passes_of(loss)]:
        return f"the loss {uncut[0]!r} is taken over the whole batch"
    for name, layer in layers.items():
        router = f"the router {type(layer.router).__name__}"
        if layer.router.needs_sums:
            continue
        if listens(layer.router):
            return f"{router} is told the loads of the whole batch"
        # Parameters learn only from the gradient; a buffer that is saved may follow the batches.
        parameters = dict(layer.named_parameters())
        for buffer in layer.state_dict().keys() - parameters.keys():
            return f"{name}.{buffer} may keep statistics of the batch"
    return None


def weighed_losses(train: TrainConfig) -> list[tuple[str, object]]:
    """Return the names and functions of a recipe's auxiliary losses whose weight is not 0."""
    return [(name, LOSSES.get(name).target) for name, weight in train.losses.items() if weight]


def needs_sums_first(spec: TrialSpec, model: nn.Module) -> bool:
    """Tell whether a loss needs sums over the batch before any part of it is trained on."""
    routers = [layer.router for layer in moe_layers(model).values()]
    own = any(type(router).own_loss is not Router.own_loss for router in routers)
    losses = weighed_losses(spec.train) if routers else []
    return own or any(passes_of(loss) == 2 for _, loss in losses)
