"""Checks of a router from outside: what must not change, and what must not break.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor

from bench.check.compare import require, require_equal, require_finite
from bench.check.subject import KINDS, Subject, run
from bench.model import MoELayer
from bench.model.moe import Activations
from routers import RequestError, RouterContext, Routing, SoftRouting


def runs(subject: Subject) -> str:
    """It routes input of every kind, in training and in eval mode, in each of its settings."""
    for where, _, routing in subject.routings:
        kind = type(routing).__name__
        require(isinstance(routing, Routing), f"{where}: a {kind} is returned, not a Routing")
    return ""


def repeatable(subject: Subject) -> str:
    """In eval mode the same input gives the same bits, whatever any generator's state."""
    layer, x = subject.layer().eval(), subject.tokens_of()
    torch.default_generator.manual_seed(10)
    first = _facts(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    for name, value in _facts(*run(layer, x, seed=2)).items():
        require_equal(value, first[name], f"second pass: {name}", "gted", "the first", 0.0)
    return ""


def seeded(subject: Subject) -> str:
    """In training all randomness comes from the generator in the router's context."""
    layer, x = subject.layer().train(), subject.tokens_of()
    torch.default_generator.manual_seed(10)
    first = _facts(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    for name, value in _facts(*run(layer, x, seed=1)).items():
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


def finite(subject: Subject) -> str:
    """Finite on zero, constant, huge and 16-bit input, for one token and for one expert."""
    cases = [(subject, kind, torch.float32) for kind in KINDS]
    cases += [(subject, kind, torch.float16) for kind in KINDS if kind != "huge"]
    cases += [(subject, "random", torch.bfloat16)]
    cases += [(subject.resized(tokens=1), "random", torch.float32)]
    cases += [(subject.resized(num_experts=1), "random", torch.float32)]
    for case, kind, dtype in cases:
        size = f"tokens = {case.tokens}, experts = {case.num_experts}"
        where = f"{kind} {str(dtype).removeprefix('torch.')} input, {size}"
        try:
            layer = case.layer(dtype=torch.float32)
        except RequestError:
            if case.num_experts > 1:
                raise
            continue  # top_k = 2 of one expert is refused, as it should be
        for training in (True, False):
            try:
                _finite(layer.train(training), case.tokens_of(kind).to(dtype), where)
            except RuntimeError as error:
                error.add_note(where)
                raise
    return ""


def autocast(subject: Subject) -> str:
    """The router computes in float32 where the model is cast to 16 bits."""
    layer = subject.layer(dtype=torch.float32).eval()
    router, x = layer.router, subject.tokens_of().float()
    context = _context(layer, x)
    expected = router(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x, context)
        half = router(x.bfloat16(), context)
    for cast in (routing, half):
        for name, value in _tensors(cast).items():
            dtype = value.dtype
            require(dtype == torch.float32, f"{name} is {dtype} under autocast, not torch.float32")
    for name, value in _tensors(routing).items():
        source = "the same input without autocast"
        require_equal(value, _tensors(expected)[name], f"{name}", "gtes", source, 1e-6)
    return ""


def saved(subject: Subject) -> str:
    """A router that was saved and loaded into a fresh one routes as before."""
    layer, x = subject.layer(), subject.tokens_of()
    run(layer.train(), x)  # what training writes into buffers has to be saved too
    fresh = subject.layer(seed=7)
    fresh.load_state_dict(safetensors.torch.load(safetensors.torch.save(layer.state_dict())))
    expected = _facts(*run(layer.eval(), x))
    for name, value in _facts(*run(fresh.eval(), x)).items():
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


def _finite(layer: MoELayer, x: Tensor, where: str) -> None:
    x = x.clone().requires_grad_()
    router = layer.router
    routing = layer.router(x, _context(layer, x))
    # Without experts between them, so that only the router can be at fault.
    y = routing.combine(routing.dispatch(x))
    for name, value in _facts(y, routing).items():
        require_finite(value, f"{where}: {name}")
    mode = "training" if layer.training else "eval"
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    # A mean, for gradients that 16 bits can hold.
    (y.float() * weight).mean().backward()
    for name, tensor in {"the input": x, **dict(router.named_parameters())}.items():
        if tensor.grad is not None:
            require_finite(tensor.grad, f"{where}, {mode} mode: the gradient of {name}")


def _context(layer: MoELayer, x: Tensor) -> RouterContext:
    """What a layer tells its router, with the experts' activations in the experts' own precision.

    In a model the input has that precision too; here the router alone is fed with another.
    """
    weight = next(layer.experts.parameters())
    generator = torch.Generator().manual_seed(2)
    return RouterContext(generator, expert_hidden=Activations(layer.experts, x.to(weight.dtype)))


def _facts(y: Tensor, routing: Routing) -> dict[str, Tensor]:
    """What must agree for two passes to be the same."""
    return {"y": y, **_tensors(routing)}


def _tensors(routing: Routing) -> dict[str, Tensor]:
    facts = {"gates": routing.gates}
    if isinstance(routing, SoftRouting):
        facts |= {"dispatch": routing.dispatch_tensor(), "combine": routing.combine_tensor()}
    else:
        # The order of slots means nothing, and where nothing is dropped the fullest expert of the
        # whole batch sets their number.
        facts["dispatch"] = routing.dispatch_tensor().sum(-1)
        facts["combine"] = routing.combine_weights()
    return facts if routing.logits is None else {**facts, "logits": routing.logits}
