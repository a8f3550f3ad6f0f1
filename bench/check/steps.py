"""A check of training steps: does all that a router learns and keeps survive an interruption?

Axes: g groups, t tokens, d width, E experts.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.check.cases import Subject
from bench.check.outcome import Failed
from bench.check.reference import require_equal
from bench.model import MoELayer, forward_pass
from routers import Router, step_stats

BEFORE, AFTER = 2, 2
OF_EVERY_MODULE = vars(nn.Module()).keys()
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def resumed(subject: Subject) -> str:
    """Steps after loading a saved state give the same bits as steps without an interruption."""
    layer = subject.layer().train()
    for step in range(BEFORE):
        _step(layer, subject, step)
    saved = safetensors.torch.save(layer.state_dict())
    fresh = subject.layer().train()
    fresh.load_state_dict(safetensors.torch.load(saved))
    expected = [_step(layer, subject, step) for step in range(BEFORE, BEFORE + AFTER)]
    outputs = [_step(fresh, subject, step) for step in range(BEFORE, BEFORE + AFTER)]
    unsaved = [*_differing_attributes(layer.router, fresh.router)]
    if unsaved:
        names = ", ".join(f"self.{name}" for name in unsaved[:3])
        raise Failed(
            f"{names} changes from step to step and is not saved: keep it in a buffer, "
            f'self.register_buffer("{unsaved[0].rpartition(".")[2]}", torch.…), or a parameter'
        )
    advice = "the same step without loading (keep state in buffers or parameters)"
    for step, (y, wanted) in enumerate(zip(outputs, expected, strict=True)):
        require_equal(y, wanted, f"step {step + 1} after loading: y", "gtd", advice, 0.0)
    state = fresh.state_dict()
    for name, tensor in layer.state_dict().items():
        require_equal(
            state[name], tensor, f"after loading and {AFTER} steps: {name}", "ijkl", advice, 0.0
        )
    return ""


def _step(layer: MoELayer, subject: Subject, step: int) -> Tensor:
    """Take one step of plain gradient descent, as a training takes it; returns the output."""
    generator = torch.Generator().manual_seed(step)
    x = subject.tokens_of(seed=step)
    labels = torch.arange(len(x)) % 3
    with forward_pass(layer, generator=generator, step=step, labels=labels) as routings:
        y: Tensor = layer(x)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(step), dtype=y.dtype)
        layer.zero_grad()
        (y * weight).mean().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    try:
        layer.router.after_step(step_stats(routings[0]))
    except Exception as error:
        error.add_note("after_step, given load and demand, (E,) int64 each")
        raise
    return y.detach()


def _differing_attributes(one: Router, other: Router) -> Iterator[str]:
    """List the attributes that differ, by path, without parameters, buffers and modules."""
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        theirs = vars(others[path]) if path in others else {}
        for name, value in vars(module).items():
            if name not in OF_EVERY_MODULE and not _same(value, theirs.get(name), set()):
                yield f"{path}.{name}" if path else name


def _same(a: Any, b: Any, seen: set[int]) -> bool:
    """Tell whether two values hold the same; objects of unknown types, if their attributes do."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ATOMS):
        return bool(a == b or (a != a and b != b))
    if id(a) in seen:
        return True
    seen.add(id(a))
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and _same_bits(a, b)
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, torch.Generator):
        return bool(a.get_state().equal(b.get_state()))
    if isinstance(a, random.Random):
        return a.getstate() == b.getstate()
    if isinstance(a, np.random.Generator):
        return _same(a.bit_generator.state, b.bit_generator.state, seen)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key], seen) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(_same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, set | frozenset):
        return bool(a == b)
    return _same(getattr(a, "__dict__", None), getattr(b, "__dict__", None), seen)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach(), b.detach()
    return bool(((a == b) | ((a != a) & (b != b))).all())
