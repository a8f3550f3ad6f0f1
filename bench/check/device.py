"""A comparison of a device with the CPU: every router runs in a small MoE layer on both.

Axes: g groups, t tokens, d width, E experts.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.check.cases import Subject
from bench.model import MoELayer, forward_pass
from routers import ROUTERS, Baseline, list_routers
from routers.errors import describe
from suites.support.timing import wait

EQUAL = 1e-4
"""Largest error of an output or gradient that counts as equal, relative to the CPU's norm."""
HALF_BOUNDS = (2**-6, 2**-5)
"""Largest expected errors of bfloat16 autocast, relative to the norm in float32: of an output, of
a gradient."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of one router on a device with the CPU, and with itself.

    Attributes:
        output, gradient: error of the layer's output and of all gradients together, relative to the
            norm of the CPU's; the larger of those in evaluation and in training.
        moved: number of token-expert pairs that only one of the two devices takes.
        in_training: whether training was compared too, which it is not if the router is random.
        repeatable: whether a second pass gave the same bits, including gradients.
        half: `output` and `gradient` under bfloat16 autocast, against float32 on the device.
        waits: whether a forward pass in evaluation made the host wait for the device; None if
            the host is the device.
        declared: why the router says that it waits; empty if it does not say that it waits.
        error: what went wrong, if there is no result.
    """

    name: str
    output: float = math.nan
    gradient: float = math.nan
    moved: int = 0
    in_training: bool = False
    repeatable: bool = False
    half: tuple[float, float] = (math.nan, math.nan)
    waits: bool | None = None
    declared: str = ""
    error: str = ""

    @property
    def equal(self) -> bool:
        """Whether the device gives the CPU's results."""
        return not self.error and self.output <= EQUAL and self.gradient <= EQUAL

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong, in words."""
        wrong = {
            self.error: bool(self.error),
            "differs from the CPU": not self.error and not self.equal,
            "bfloat16 is too far off": any(
                value > bound for value, bound in zip(self.half, HALF_BOUNDS, strict=True)
            ),
            "waits for the device and does not say so": bool(self.waits) and not self.declared,
        }
        return [what for what, is_so in wrong.items() if is_so]


def routers_to_compare() -> list[str]:
    """Return the names of all registered routers except the baselines."""
    return [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]


def agreement(name: str, device: torch.device, **sizes: int) -> Agreement:
    """Compare a router on a device with the CPU; `sizes` are fields of `Subject`.

    Any failure ends up in `error`, so that one router does not cost the others their results.
    """
    declared = ROUTERS.get(name).target.host_reads
    try:
        return _compared(Subject(ROUTERS.get(name), {}, **sizes), device, declared)
    except Exception as error:
        return Agreement(name, declared=declared, error=describe(error)[:200])


def _compared(subject: Subject, device: torch.device, declared: str) -> Agreement:
    here = subject.layer(dtype=torch.float32)
    there, cpu = deepcopy(here).to(device), torch.device("cpu")
    x = subject.tokens_of().float()
    outputs, gradients, moved = [], [], 0
    passes = [_pass(deepcopy(here).train(), x, cpu, seed=seed)["y"] for seed in (1, 2)]
    draws = not passes[0].equal(passes[1])  # at random, in training
    for training in (False,) if draws else (False, True):
        expected = _pass(deepcopy(here).train(training), x, cpu)
        computed = _pass(deepcopy(there).train(training), x, device)
        outputs.append(relative_error(computed["y"], expected["y"]))
        gradients.append(relative_error(computed["gradients"], expected["gradients"]))
        moved = max(moved, int((computed["taken"] != expected["taken"]).sum()))
    first, second = (_pass(deepcopy(there).train(), x, device) for _ in range(2))
    whole, half = (_pass(deepcopy(there).eval(), x, device, half=each) for each in (False, True))
    return Agreement(
        subject.entry.name,
        max(outputs),
        max(gradients),
        moved,
        in_training=not draws,
        repeatable=all(first[key].equal(second[key]) for key in first),
        half=(
            relative_error(half["y"], whole["y"]),
            relative_error(half["gradients"], whole["gradients"]),
        ),
        waits=_waits(there.eval(), x.to(device)),
        declared=declared,
    )


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """Return the norm of the error over the norm of what is expected; 0 if both are 0."""
    size = float(expected.double().norm())
    error = float((computed.double() - expected.double()).norm())
    return error / size if size else error


def _pass(
    layer: MoELayer, x: Tensor, device: torch.device, *, half: bool = False, seed: int = 1
) -> dict[str, Tensor]:
    """Run a layer forward and backward; return output, gradients and choices, on the CPU."""
    inputs = x.detach().clone().to(device).requires_grad_()
    generator = torch.Generator(device).manual_seed(seed)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=half)
    with forward_pass(layer, generator=generator) as routings, autocast:
        y: Tensor = layer(inputs)
    y.float().square().mean().backward()
    trained = (weight for weight in layer.parameters() if weight.grad is not None)
    grads = [inputs.grad, *(weight.grad for weight in trained)]
    flat = torch.cat([grad.flatten().float() for grad in grads if grad is not None])
    taken = routings[0].taken()
    return {"y": y.detach().cpu(), "gradients": flat.cpu(), "taken": taken.cpu()}


@torch.no_grad()
def _waits(layer: MoELayer, x: Tensor) -> bool | None:
    """Tell whether a forward pass waits for the device; None if that has no meaning."""
    if x.device.type != "cuda":
        return None
    layer(x)
    wait(x.device)
    before: Any = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False
