"""Checks of a router from outside: what must not change.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

import safetensors.torch
import torch

from bench.check.compare import require, require_equal
from bench.check.subject import Subject, context_of, facts, run, tensors
from bench.model import MoELayer


def repeatable(subject: Subject) -> str:
    """In eval mode the same input gives the same bits, whatever any generator's state."""
    layer, x = subject.layer().eval(), subject.tokens_of()
    torch.default_generator.manual_seed(10)
    first = facts(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    for name, value in facts(*run(layer, x, seed=2)).items():
        require_equal(value, first[name], f"second pass: {name}", "gted", "the first", 0.0)
    return ""


def seeded(subject: Subject) -> str:
    """In training all randomness comes from the generator in the router's context."""
    layer, x = subject.layer().train(), subject.tokens_of()
    torch.default_generator.manual_seed(10)
    first = facts(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    for name, value in facts(*run(layer, x, seed=1)).items():
        source = "the first with a generator of the same seed"
        require_equal(value, first[name], f"second pass: {name}", "gted", source, 0.0)
    return ""


def groups(subject: Subject) -> str:
    """A group's result does not depend on the other groups of the batch."""
    layer = subject.layer()
    _groups_apart(layer.eval(), subject, "eval mode")
    reason = _differs_in_training(layer.train(), subject)
    if reason:
        return f"in eval mode only: {reason}"
    _groups_apart(layer.train(), subject, "training mode")
    return ""


def autocast(subject: Subject) -> str:
    """The router computes in float32 where the model is cast to 16 bits."""
    layer = subject.layer(dtype=torch.float32).eval()
    router, x = layer.router, subject.tokens_of().float()
    context = context_of(layer, x)
    expected = router(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x, context)
        half = router(x.bfloat16(), context)
    for cast in (routing, half):
        for name, value in tensors(cast).items():
            dtype = value.dtype
            require(dtype == torch.float32, f"{name} is {dtype} under autocast, not torch.float32")
    for name, value in tensors(routing).items():
        source = "the same input without autocast"
        require_equal(value, tensors(expected)[name], f"{name}", "gtes", source, 1e-6)
    return ""


def saved(subject: Subject) -> str:
    """A router that was saved and loaded into a fresh one routes as before."""
    layer, x = subject.layer(), subject.tokens_of()
    run(layer.train(), x)  # what training writes into buffers has to be saved too
    fresh = subject.layer(seed=7)
    fresh.load_state_dict(safetensors.torch.load(safetensors.torch.save(layer.state_dict())))
    expected = facts(*run(layer.eval(), x))
    for name, value in facts(*run(fresh.eval(), x)).items():
        require_equal(value, expected[name], f"after loading: {name}", "gted", "before saving")
    return ""


def _groups_apart(layer: MoELayer, subject: Subject, mode: str) -> None:
    x = subject.tokens_of()
    y, _ = run(layer, x)
    for g in range(subject.groups):
        alone, _ = run(layer, x[g : g + 1])
        require_equal(y[g], alone[0], f"{mode}: y of group {g}", "td", "the group by itself")
        others = 100 * x.roll(1, 0)
        others[g] = x[g]
        among, _ = run(layer, others)
        source = "the same group among others"
        require_equal(y[g], among[g], f"{mode}: y of group {g}", "td", source)


def _differs_in_training(layer: MoELayer, subject: Subject) -> str:
    """Why a group's result must depend on the batch in training mode; empty where it need not."""
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    passes = [run(layer, subject.tokens_of(), seed=seed)[0] for seed in (1, 2)]
    for name, buffer in layer.named_buffers():
        if not buffer.equal(before[name]):
            return f"training uses batch statistics, which it keeps in {name}"
    return "" if passes[0].equal(passes[1]) else "training draws at random"
