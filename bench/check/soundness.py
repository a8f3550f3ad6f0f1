"""Checks without which the others mean nothing: it routes, and with finite numbers.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.check.compare import require_finite, require_returned
from bench.check.outcome import Failed
from bench.check.subject import CASES, KINDS, Subject, context_of, facts, in_case, run
from routers import RequestError, Routing, described


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
    for name, value in facts(y, routing).items():
        require_finite(value, name)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    # A mean, for gradients that 16 bits can hold.
    (y.float() * weight).mean().backward()
    mode = "training" if training else "eval"
    for name, tensor in {"the input": x, **dict(layer.router.named_parameters())}.items():
        if tensor.grad is not None:
            require_finite(tensor.grad, f"{mode} mode: the gradient of {name}")


def _refused_with_one_expert(subject: Subject) -> str:
    """How many experts the router asks for where it refuses to have one; empty where it has."""
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
    """Make a call; what goes wrong is told with where it was."""
    try:
        call()
    except Failed as failure:
        raise type(failure)(f"{where}: {failure}") from None
    except Exception as error:
        error.add_note(where)
        raise
