"""AdamW as vision transformers are trained with it: what decays, how fast, and the average."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.config import TrainConfig


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (1711.05101) on everything that learns.

    Biases, norms, single scales and what timm's models name in `no_weight_decay` do not decay.
    """
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            keep = name in spared or parameter.ndim < 2 or _is_bias(name)
            (free if keep else decaying).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": train.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def _is_bias(name: str) -> bool:
    """Experts stack their biases: `bias1`, (E, 1, h), is no matrix; nor is one of a list."""
    return any(part.startswith("bias") for part in name.split("."))


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """Linear warm-up over a share of the steps, then half a cosine down to 0 (1608.03983).

    Args:
        step: from 0; the first has a positive rate.
        steps: of the whole training.
    """
    warmup = round(train.warmup * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it as an exponential moving average, buffers too."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
