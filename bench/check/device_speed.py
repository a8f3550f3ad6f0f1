"""How fast a device runs layers and a vision transformer, and how much memory they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.model import MLPExperts, MoELayer, ReplacedMLP, moefy, seeded, site_of
from routers import build_router
from routers.errors import describe
from suites.support.timing import PASSES, interleaved, one_pass, peak_memory
from suites.throughput import SHAPES

NUM_EXPERTS = 8
LEAST = 3
"""Minimum number of repeats of a timing, if `Effort.repeats` allows as many."""
DENSE = "dense"
"""The name of the MLP, or the model, without experts."""
MODELS = (DENSE, "softmax_token_choice", "softmax_expert_choice", "soft_moe")
"""The routers that the vision transformer is timed with."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        shapes: images, tokens per image, width, and hidden width of an expert, by name.
        seconds, repeats: limits of one timing: it ends after `seconds`, with at least three
            repeats, or after `repeats`.
        images: images in a batch of the vision transformer.
        vit: options that differ from timm's vit_base_patch16_224.
    """

    shapes: Mapping[str, tuple[int, int, int, int]]
    seconds: float
    repeats: int
    images: int
    vit: Mapping[str, int]


WHOLE = Effort(dict(SHAPES.items()), 0.25, 100, 64, {})
QUICK = Effort(
    {"B": (2, 8, 16, 32)},
    *(0.0, 1, 2),
    {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 10},
)
"""Small enough to see on a CPU that everything runs; its times mean nothing."""


@dataclass(frozen=True)
class Speed:
    """Medians of one module at one shape.

    Attributes:
        rows: tokens, or images, in a pass.
        forward_ms, train_ms: time of a forward pass, and of both passes of a training step.
        memory: peak bytes of a training pass above the weights; None if the device does not tell.
        error: what went wrong, if there is no result.
    """

    name: str
    precision: str
    rows: int
    forward_ms: float = np.nan
    train_ms: float = np.nan
    memory: int | None = None
    error: str = ""

    @property
    def rate(self) -> float:
        """Rows per second in training."""
        return 1e3 * self.rows / self.train_ms


def layer_speed(name: str, shape: str, device: torch.device, half: bool, effort: Effort) -> Speed:
    """Measure a bare MoE layer with this router, or an MLP of one expert's shape."""
    images, tokens, dim, hidden = effort.shapes[shape]

    def made() -> tuple[nn.Module, torch.Tensor]:
        with seeded(0):
            replaced = ReplacedMLP(dim, hidden)
            module: nn.Module = nn.Sequential(
                nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
            )
            if name != DENSE:
                experts = MLPExperts(NUM_EXPERTS, replaced)
                site = site_of(experts)
                router = build_router(
                    name, dim=dim, num_experts=NUM_EXPERTS, tokens=tokens, site=site
                )
                module = MoELayer(router, experts)
            x = torch.randn(images, tokens, dim)
        return module.to(device), x.to(device).requires_grad_()

    return _measured(name, images * tokens, made, half, effort)


def model_speed(name: str, device: torch.device, half: bool, effort: Effort) -> Speed:
    """Measure ViT-B/16 with MoE layers in its last two blocks, or unchanged."""
    import timm  # takes seconds

    def made() -> tuple[nn.Module, torch.Tensor]:
        options: dict[str, Any] = {"num_classes": 1000, **effort.vit}
        side = options.get("img_size", 224)
        with seeded(0):
            model = timm.create_model("vit_base_patch16_224", **options)
            if name != DENSE:
                moefy(model, router=name, num_experts=NUM_EXPERTS)
            x = torch.randn(effort.images, 3, side, side)
        return model.to(device), x.to(device)

    return _measured(name, effort.images, made, half, effort)


def _measured(
    name: str,
    rows: int,
    made: Callable[[], tuple[nn.Module, torch.Tensor]],
    half: bool,
    effort: Effort,
) -> Speed:
    precision = "bfloat16" if half else "float32"
    try:
        module, x = made()
        times: dict[str, float] = {}
        memory = None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            for each in PASSES:
                run = one_pass(each, module, x)
                timed = interleaved({each: run}, x.device, effort.seconds, LEAST, effort.repeats)
                times[each] = float(np.median(timed[each]))
            if x.device.type == "cuda":
                memory = peak_memory(run, x.device)
    except Exception as error:
        return Speed(name, precision, rows, error=describe(error)[:200])
    return Speed(name, precision, rows, times["forward"], times["train"], memory)
