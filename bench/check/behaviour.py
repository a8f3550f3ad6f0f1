"""Checks of a router from the outside: what must not change, and what must be learned and saved.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.check import reference
from bench.check.cases import Subject, context_of, normal, outputs_of, run, tensors
from bench.check.outcome import Failed, NotApplicable
from bench.check.reference import require, require_equal, require_finite, require_same
from bench.model import MLPExperts, MoELayer, expert_losses, forward_pass
from routers import Batch, MergedRouting, Router, finish_step, step_stats


def repeatable(subject: Subject) -> None:
    """In eval mode the same input gives the same bits, whatever the state of any generator."""
    _require_twice(subject.layer().eval(), subject.tokens_of(), 2, "the first")


def seeded(subject: Subject) -> None:
    """In training mode all randomness comes from the generator in the router's context."""
    source = "the first with a generator of the same seed"
    _require_twice(subject.layer().train(), subject.tokens_of(), 1, source)


def _require_twice(layer: MoELayer, x: Tensor, seed: int, source: str) -> None:
    """Run a layer with seed 1, then with `seed` and another global generator; compare the bits."""
    torch.default_generator.manual_seed(10)
    first = outputs_of(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    second = outputs_of(*run(layer, x, seed=seed))
    require_same(second, first, "second pass: {}", "gted", source, 0.0)


def groups(subject: Subject) -> str:
    """A group's result does not depend on the other groups of the batch."""
    layer = subject.layer()
    if layer.router.spans_batch:
        return "by its definition the batch is one group: see the check `images`"
    _require_groups_apart(layer.eval(), subject, "eval mode")
    reason = _differs_in_training(layer.train(), subject)
    if reason:
        return f"in eval mode only: {reason}"
    _require_groups_apart(layer.train(), subject, "training mode")
    return ""


def images(subject: Subject) -> str:
    """It is known, in each mode, whether an image's result depends on the rest of its batch."""
    layer = subject.layer()
    if not layer.router.spans_batch:
        return ""  # what `groups` proves
    for buffer in layer.router.buffers():
        if buffer.is_floating_point():
            buffer.fill_(0.5)  # thresholds that let everything through hide any dependence
    try:
        _require_groups_apart(layer.eval(), replace(subject, groups=3), "eval mode")
    except Failed:
        return "routing depends on the other images of the batch, in evaluation too"
    return ""


def _require_groups_apart(layer: MoELayer, subject: Subject, mode: str) -> None:
    x = subject.tokens_of()
    y, _ = run(layer, x)
    for g in range(subject.groups):
        what = f"{mode}: y of group {g}"
        alone, _ = run(layer, x[g : g + 1])
        require_equal(y[g], alone[0], what, "td", "the group by itself")
        others = 100 * x.roll(1, 0)
        others[g] = x[g]
        among, _ = run(layer, others)
        require_equal(y[g], among[g], what, "td", "the same group among others")


def _differs_in_training(layer: MoELayer, subject: Subject) -> str:
    """Return why a group's result may depend on the batch in training mode; empty if it may not."""
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    first, second = (run(layer, subject.tokens_of(), seed=seed)[0] for seed in (1, 2))
    for name, buffer in layer.named_buffers():
        if not buffer.equal(before[name]):
            return f"training uses batch statistics, which it keeps in {name}"
    return "" if first.equal(second) else "training draws at random"


def autocast(subject: Subject) -> None:
    """The router computes in float32 even if the model is cast to 16 bits."""
    layer = subject.layer(dtype=torch.float32).eval()
    router, x = layer.router, subject.tokens_of().float()
    context = context_of(layer, x)
    expected = tensors(router(x, context))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = tensors(router(x, context))
        half = tensors(router(x.bfloat16(), context))
    for name, value in [*same.items(), *half.items()]:
        dtype = value.dtype
        require(dtype == torch.float32, f"{name} is {dtype} under autocast, not torch.float32")
    require_same(same, expected, "{}", "gtes", "the same input without autocast", 1e-6)


def save(subject: Subject) -> None:
    """A router that is saved and loaded into a fresh one routes as before."""
    layer, x = subject.layer(), subject.tokens_of()
    run(layer.train(), x)  # what training writes into buffers has to be saved too
    fresh = subject.layer(seed=7)
    fresh.load_state_dict(safetensors.torch.load(safetensors.torch.save(layer.state_dict())))
    expected = outputs_of(*run(layer.eval(), x))
    again = outputs_of(*run(fresh.eval(), x))
    require_same(again, expected, "after loading: {}", "gted", "before saving")


def definition(subject: Subject) -> None:
    """The layer gives the same outputs and gradients as a plain loop over tokens and experts."""
    subject = replace(subject, groups=min(2, subject.groups), tokens=9)
    layer = subject.layer().train()
    x = subject.tokens_of().requires_grad_()
    y, routing = run(layer, x)
    if isinstance(routing, MergedRouting):
        raise NotApplicable("the experts' weights are averaged, not their outputs")
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    expected = reference.moe_output(d, c, x, plain_experts(layer))
    require_equal(y, expected, "y", "gtd", "the loop")
    weight = normal(*y.shape, seed=3, dtype=y.dtype)
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    inputs = {"the input": x, **trained}

    def gradients(out: Tensor) -> dict[str, Tensor]:
        grads = torch.autograd.grad(
            (out * weight).sum(), [*inputs.values()], retain_graph=True, materialize_grads=True
        )
        return dict(zip(inputs, grads, strict=True))

    require_same(gradients(y), gradients(expected), "gradient of {}", "ijkl", "the loop")


def plain_experts(layer: MoELayer) -> list[reference.Expert]:
    """Return the layer's two-layer MLPs, each as a function of one vector, (d,) -> (d,)."""
    experts = layer.experts
    assert isinstance(experts, MLPExperts)  # as `Subject.layer` builds them
    own, activation = dict(experts.named_parameters()), experts.activation

    def mlp(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> reference.Expert:
        return lambda x: activation(x @ w1 + b1) @ w2 + b2

    weights = (own["weight1"], own["bias1"][:, 0], own["weight2"], own["bias2"][:, 0])
    return list(map(mlp, *weights))


def gradient(subject: Subject) -> str:
    """Every parameter that should learn gets a gradient from the output, including the gate's."""
    layer = subject.layer().train()
    parameters = {name: p for name, p in layer.router.named_parameters() if p.requires_grad}
    if not parameters:
        raise NotApplicable("the router has no parameter that learns")
    total = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        with forward_pass(layer, generator=generator) as routings:
            # Twice, like two layers of a model: the second call sees the first one's logits.
            y = layer(layer(subject.tokens_of(seed=seed)))
        total = total + (y * normal(*y.shape, seed=seed, dtype=torch.float32)).sum()
        batch = Batch(y, torch.zeros(len(y), dtype=torch.long))
        own = (layer.router.own_loss(routing, batch) for routing in routings)
        total = total + sum(loss for loss in own if loss is not None)
    total.backward()
    for name, parameter in parameters.items():
        grad = parameter.grad
        if grad is None:
            raise Failed(f"parameter {name} gets no gradient from the output")
        require_finite(grad, f"the gradient of {name}")
        largest = float(grad.abs().max())
        # Terms that cancel leave rounding errors of about 1e-16.
        require(largest > 1e-12, f"the gradient of {name} is 0 (at most {largest:.1g} in size)")
    return f"gradient reaches {', '.join(parameters)}"


BEFORE, AFTER = 2, 2


def steps(subject: Subject) -> None:
    """Steps after loading a saved state give the same bits as uninterrupted steps."""
    layer = subject.layer().train()
    for step in range(BEFORE):
        _take_step(layer, subject, step)
    saved = safetensors.torch.save(layer.state_dict())
    fresh = subject.layer().train()
    fresh.load_state_dict(safetensors.torch.load(saved))
    expected, outputs = (
        {f"{step + 1}": _take_step(each, subject, BEFORE + step) for step in range(AFTER)}
        for each in (layer, fresh)
    )
    unsaved = [*_differing_attributes(layer.router, fresh.router)]
    if unsaved:
        names = ", ".join(f"self.{name}" for name in unsaved[:3])
        raise Failed(
            f"{names} changes from step to step and is not saved: keep it in a buffer, "
            f'self.register_buffer("{unsaved[0].rpartition(".")[2]}", torch.…), or a parameter'
        )
    advice = "the same step without loading (keep state in buffers or parameters)"
    require_same(outputs, expected, "step {} after loading: y", "gtd", advice, 0.0)
    what = f"after loading and {AFTER} steps: {{}}"
    require_same(fresh.state_dict(), layer.state_dict(), what, "ijkl", advice, 0.0)


def _take_step(layer: MoELayer, subject: Subject, step: int) -> Tensor:
    """Take one step of plain gradient descent, as training would; return the output."""
    generator = torch.Generator().manual_seed(step)
    x = subject.tokens_of(seed=step)
    labels = torch.arange(len(x)) % 3
    with forward_pass(layer, generator=generator, step=step, labels=labels) as routings:
        y: Tensor = layer(x)
        layer.zero_grad()
        (y * normal(*y.shape, seed=step, dtype=y.dtype)).mean().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    stats = step_stats(routings[0])
    if layer.router.trials:
        wanted = normal(*y.shape, seed=step, dtype=y.dtype)
        stats["expert_losses"] = expert_losses(
            layer, lambda: (layer(x) - wanted).square().mean((1, 2))
        )
    try:
        finish_step([layer.router], [stats])
    except Exception as error:
        error.add_note("after_step, given load and demand, (E,) int64 each")
        raise
    return y.detach()


OF_EVERY_MODULE = vars(nn.Module()).keys()
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def _differing_attributes(one: Router, other: Router) -> Iterator[str]:
    """Yield the paths of the attributes that differ, except parameters, buffers and modules."""
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        theirs = vars(others[path]) if path in others else {}
        for name, value in vars(module).items():
            if name not in OF_EVERY_MODULE and not _same(value, theirs.get(name), set()):
                yield f"{path}.{name}" if path else name


def _same(a: Any, b: Any, seen: set[int]) -> bool:
    """Tell whether two values are the same; for unknown types, whether their attributes are."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ATOMS):
        return bool(a == b or (a != a and b != b))
    if id(a) in seen:
        return True
    seen.add(id(a))
    if isinstance(a, torch.Generator):
        a, b = a.get_state(), b.get_state()
    elif isinstance(a, random.Random):
        a, b = a.getstate(), b.getstate()
    elif isinstance(a, np.random.Generator):
        a, b = a.bit_generator.state, b.bit_generator.state
    if isinstance(a, Tensor):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        a, b = a.detach(), b.detach()
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key], seen) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(_same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, set | frozenset):
        return bool(a == b)
    return _same(getattr(a, "__dict__", None), getattr(b, "__dict__", None), seen)
