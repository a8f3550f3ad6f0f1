"""Updates of the weights: AdamW, its learning-rate schedule, and averaged weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bench.config import TrainConfig


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW (1711.05101) for all trainable parameters.

    Biases, norms, scalars and the parameters in a timm model's `no_weight_decay` do not decay.
    """
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # A bias may be stacked over experts, as (E, 1, h).
            is_bias = any(part.startswith("bias") for part in name.split("."))
            keep = name in spared or parameter.ndim < 2 or is_bias
            (free if keep else decaying).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": train.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine to 0 (1608.03983).

    Args:
        step: number of the step, from 0; the first has a positive rate.
        steps: number of steps of the whole training.
    """
    warmup = round(train.warmup * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


Tensors = tuple[Tensor, ...] | list[Tensor]


def following(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update of averaged weights: an exponential moving average; counts are copied.

    An average of integers would be rounded down, and one of booleans would stay true for ever.
    """
    average = get_ema_multi_avg_fn(decay)

    def follow(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            average(averages, values, count)
        else:
            for own, value in zip(averages, values, strict=True):
                own.copy_(value)

    return follow
