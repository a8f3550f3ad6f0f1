"""Checks of a router from outside: what must not change.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import safetensors.torch
import torch
from torch import Tensor

from bench.check import reference
from bench.check.cases import CASES, KINDS, Subject, context_of, in_case, outputs_of, run, tensors
from bench.check.outcome import Failed, NotApplicable
from bench.check.reference import require, require_equal, require_finite, require_returned
from bench.model import MLPExperts, MoELayer
from routers import RequestError, Routing, described


def repeatable(subject: Subject) -> str:
    """In eval mode the same input gives the same bits, whatever any generator's state."""
    return _twice(subject.layer().eval(), subject.tokens_of(), 2, "the first")


def seeded(subject: Subject) -> str:
    """In training all randomness comes from the generator in the router's context."""
    source = "the first with a generator of the same seed"
    return _twice(subject.layer().train(), subject.tokens_of(), 1, source)


def _twice(layer: MoELayer, x: Tensor, seed: int, source: str) -> str:
    """Run a layer with seed 1, and with another seed and global generator; compare the bits."""
    torch.default_generator.manual_seed(10)
    first = outputs_of(*run(layer, x, seed=1))
    torch.default_generator.manual_seed(11)
    for name, value in outputs_of(*run(layer, x, seed=seed)).items():
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
    expected = outputs_of(*run(layer.eval(), x))
    for name, value in outputs_of(*run(fresh.eval(), x)).items():
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
    """Say why a group's result depends on the batch in training mode; empty where it need not."""
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    passes = [run(layer, subject.tokens_of(), seed=seed)[0] for seed in (1, 2)]
    for name, buffer in layer.named_buffers():
        if not buffer.equal(before[name]):
            return f"training uses batch statistics, which it keeps in {name}"
    return "" if passes[0].equal(passes[1]) else "training draws at random"


def definition(subject: Subject) -> str:
    """The layer gives what a plain loop over tokens and experts gives, and the same gradients."""
    subject = subject.resized(groups=2, tokens=9)
    layer = subject.layer().train()
    x = subject.tokens_of().requires_grad_()
    y, routing = run(layer, x)
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    expected = reference.moe_output(d, c, x, plain_experts(layer))
    require_equal(y, expected, "y", "gtd", "the loop")
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    inputs = {"the input": x, **_trained(layer)}
    fast, slow = (
        torch.autograd.grad(
            (out * weight).sum(), list(inputs.values()), retain_graph=True, materialize_grads=True
        )
        for out in (y, expected)
    )
    for name, got, wanted in zip(inputs, fast, slow, strict=True):
        require_equal(got, wanted, f"gradient of {name}", "ijkl", "the loop")
    return ""


def plain_experts(layer: MoELayer) -> list[reference.Expert]:
    """Return the layer's MLPs, each as a function of one vector."""
    experts = layer.experts
    assert isinstance(experts, MLPExperts)  # as `Subject.layer` builds them
    own = dict(experts.named_parameters())
    weights = (own["weight1"], own["bias1"][:, 0], own["weight2"], own["bias2"][:, 0])
    return [reference.mlp(*parts, experts.activation) for parts in zip(*weights, strict=True)]


def gradient(subject: Subject) -> str:
    """Every parameter that should learn gets a gradient from the output, the gate's too."""
    layer = subject.layer().train()
    parameters = {name: p for name, p in layer.router.named_parameters() if p.requires_grad}
    if not parameters:
        raise NotApplicable("the router has no parameter that learns")
    total = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        y, _ = run(layer, subject.tokens_of(seed=seed), seed=seed)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        total = total + (y * weight).sum()
    total.backward()
    for name, parameter in parameters.items():
        grad = parameter.grad
        if grad is None:
            raise Failed(f"parameter {name} gets no gradient from the output")
        require_finite(grad, f"the gradient of {name}")
        largest = float(grad.abs().max())
        # What cancels leaves rounding errors of about 1e-16.
        require(largest > 1e-12, f"the gradient of {name} is 0 (at most {largest:.1g} in size)")
    names = ", ".join(parameters)
    return f"gradient reaches {names}"


def _trained(layer: MoELayer) -> dict[str, Tensor]:
    return {name: p for name, p in layer.named_parameters() if p.requires_grad}


def runs(subject: Subject) -> str:
    """It returns a routing of the right shapes with finite weights for ordinary input."""
    for training in (True, False):
        _in(in_case(training, "random"), partial(_route, subject, training))
    return ""


def finite(subject: Subject) -> str:
    """Finite on zero, constant, huge and 16-bit input, for one token and for one expert."""
    for training, kind in CASES:
        _in(in_case(training, kind), partial(subject.routed, kind, training=training))
    cases = [(subject, kind, torch.float32) for kind in KINDS]
    cases += [(subject, kind, torch.float16) for kind in KINDS if kind != "huge"]
    cases += [(subject, "random", torch.bfloat16)]
    cases += [(subject.resized(tokens=1), "random", torch.float32)]
    refused = _refused_with_one_expert(subject)
    if not refused:
        cases += [(subject.resized(num_experts=1), "random", torch.float32)]
    for case, kind, dtype in cases:
        size = f"tokens = {case.tokens}, experts = {case.num_experts}"
        where = f"{kind} {str(dtype).removeprefix('torch.')} input, {size}"
        for training in (True, False):
            _in(where, partial(_finite, case, kind, dtype, training))
    return refused


def _route(subject: Subject, training: bool) -> None:
    layer, x = subject.layer().train(training), subject.tokens_of()
    routing = layer.router(x, context_of(layer, x))
    require_returned(
        isinstance(routing, Routing), f"{described(routing)} is returned, not a Routing"
    )
    gates = (subject.groups, subject.tokens, subject.num_experts)
    _require_shape(routing.gates, "gates", "(g, t, E)", gates)
    full = (*gates, routing.num_slots)
    _require_shape(routing.dispatch_tensor(), "dispatch_tensor()", "(g, t, E, s)", full)
    _require_shape(routing.combine_tensor(), "combine_tensor()", "(g, t, E, s)", full)
    require_finite(routing.gates, "gates")
    require_finite(routing.combine_tensor(), "combine_tensor()")
    run(layer, x)


def _require_shape(value: object, what: str, axes: str, wanted: tuple[int, ...]) -> None:
    require_returned(isinstance(value, torch.Tensor), f"{what} is {described(value)}, not a Tensor")
    assert isinstance(value, torch.Tensor)
    shape = tuple(value.shape)
    order = "; the axes are in another order" if sorted(shape) == sorted(wanted) else ""
    require_returned(shape == wanted, f"{what} of shape {shape}, not {axes} = {wanted}{order}")


def _finite(subject: Subject, kind: str, dtype: torch.dtype, training: bool) -> None:
    layer = subject.layer(dtype=torch.float32).train(training)
    x = subject.tokens_of(kind).to(dtype).requires_grad_()
    routing = layer.router(x, context_of(layer, x))
    # Without experts between them, so that only the router can be at fault.
    y = routing.combine(routing.dispatch(x))
    for name, value in outputs_of(y, routing).items():
        require_finite(value, name)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    # A mean, for gradients that 16 bits can hold.
    (y.float() * weight).mean().backward()
    mode = "training" if training else "eval"
    for name, tensor in {"the input": x, **dict(layer.router.named_parameters())}.items():
        if tensor.grad is not None:
            require_finite(tensor.grad, f"{mode} mode: the gradient of {name}")


def _refused_with_one_expert(subject: Subject) -> str:
    """Return the number of experts that a router asks for, if it refuses one; empty otherwise."""
    for number in range(1, subject.num_experts + 1):
        try:
            subject.resized(num_experts=number).routed("random", training=True)
        except RequestError:
            continue
        except Exception:
            return ""  # a crash, which the check itself reports
        return "" if number == 1 else f"1 expert not run: needs {number} experts or more"
    return ""


def _in(where: str, call: Callable[[], object]) -> None:
    """Make a call; an error becomes a failure that says where it was raised."""
    try:
        call()
    except Failed as failure:
        raise type(failure)(f"{where}: {failure}") from None
    except Exception as error:
        error.add_note(where)
        raise
