"""Checks of one routing: whether it is what a routing has to be.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from bench.check import reference
from bench.check.cases import CASES, KINDS, Subject, context_of, in_case, normal, outputs_of, run
from bench.check.outcome import Failed, NotApplicable, WrongReturn
from bench.check.reference import require, require_all, require_equal, require_finite
from routers import (
    ExpertChoiceRouting,
    MixtureRouting,
    RequestError,
    Router,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
    described,
)
from routers.learned_threshold import LearnedThreshold


def runs(subject: Subject) -> None:
    """For ordinary input it returns a routing of the right shapes with finite weights."""
    for training in (True, False):
        with _located(in_case(training, "random")):
            layer, x = subject.layer().train(training), subject.tokens_of()
            routing = layer.router(x, context_of(layer, x))
            returned = f"{described(routing)} is returned, not a Routing"
            require(isinstance(routing, Routing), returned, WrongReturn)
            gates = (subject.groups, subject.tokens, subject.num_experts)
            _require_shape(routing.gates, "gates", "(g, t, E)", gates)
            full = (*gates, routing.num_slots)
            _require_shape(routing.dispatch_tensor(), "dispatch_tensor()", "(g, t, E, s)", full)
            _require_shape(routing.combine_tensor(), "combine_tensor()", "(g, t, E, s)", full)
            require_finite(routing.gates, "gates")
            require_finite(routing.combine_tensor(), "combine_tensor()")
            run(layer, x)


def _require_shape(value: object, what: str, axes: str, wanted: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor):
        raise WrongReturn(f"{what} is {described(value)}, not a Tensor")
    shape = tuple(value.shape)
    order = "; the axes are in another order" if sorted(shape) == sorted(wanted) else ""
    message = f"{what} of shape {shape}, not {axes} = {wanted}{order}"
    require(shape == wanted, message, WrongReturn)


def finite(subject: Subject) -> str:
    """It is finite on zero, constant, huge and 16-bit input, with one token and with one expert."""
    for training, kind in CASES:
        with _located(in_case(training, kind)):
            subject.routed(kind, training=training)
    cases = [(subject, kind, torch.float32) for kind in KINDS]
    cases += [(subject, kind, torch.float16) for kind in KINDS if kind != "huge"]
    cases += [(subject, "random", torch.bfloat16)]
    cases += [(replace(subject, tokens=1), "random", torch.float32)]
    refused = _refused_with_one_expert(subject)
    if not refused:
        cases += [(replace(subject, num_experts=1), "random", torch.float32)]
    for case, kind, dtype in cases:
        size = f"tokens = {case.tokens}, experts = {case.num_experts}"
        for training in (True, False):
            with _located(f"{kind} {str(dtype).removeprefix('torch.')} input, {size}"):
                _require_finite_pass(case, kind, dtype, training)
    return refused


def _require_finite_pass(subject: Subject, kind: str, dtype: torch.dtype, training: bool) -> None:
    layer = subject.layer(dtype=torch.float32).train(training)
    x = subject.tokens_of(kind).to(dtype).requires_grad_()
    routing = layer.router(x, context_of(layer, x))
    # Without experts between them, so that only the router can be at fault.
    y = routing.combine(routing.dispatch(x))
    for name, value in outputs_of(y, routing).items():
        require_finite(value, name)
    # A mean, for gradients that 16 bits can hold.
    (y.float() * normal(*y.shape, seed=3, dtype=torch.float32)).mean().backward()
    mode = "training" if training else "eval"
    for name, tensor in {"the input": x, **dict(layer.router.named_parameters())}.items():
        if tensor.grad is not None:
            require_finite(tensor.grad, f"{mode} mode: the gradient of {name}")


def _refused_with_one_expert(subject: Subject) -> str:
    """Return a note on how many experts a router needs, if it refuses one; empty otherwise."""
    for number in range(1, subject.num_experts + 1):
        try:
            replace(subject, num_experts=number).routed("random", training=True)
        except RequestError:
            continue
        except Exception:
            return ""  # a crash, which the check itself reports
        return "" if number == 1 else f"1 expert not run: needs {number} experts or more"
    return ""


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Add to an error where it was raised."""
    try:
        yield
    except Failed as failure:
        raise type(failure)(f"{where}: {failure}") from None
    except Exception as error:
        error.add_note(where)
        raise


def shapes(subject: Subject) -> None:
    """Everything that a routing offers has the shape that its readers expect."""
    x = subject.tokens_of()
    groups, tokens, dim, experts = *x.shape, subject.num_experts
    for where, _, routing in subject.routings:
        logits = routing.logits
        if logits is None:
            raise Failed("routing.logits is None; losses and suites read it")
        slots = routing.num_slots
        full = (groups, tokens, experts, slots)
        slot_inputs = routing.dispatch(x)
        choice = routing.first_choice()
        wanted = {
            "dispatch_tensor()": (routing.dispatch_tensor(), full),
            "combine_tensor()": (routing.combine_tensor(), full),
            "logits": (logits if logits.dim() == 3 else logits[..., 0], (groups, tokens, experts)),
            "gates": (routing.gates, (groups, tokens, experts)),
            "combine_weights()": (routing.combine_weights(), (groups, tokens, experts)),
            "expert_load()": (routing.expert_load(), (groups, experts)),
            "demand()": (routing.demand(), (groups, experts)),
            "token_coverage()": (routing.token_coverage(), (groups, tokens)),
            "first_choice()": (choice, (groups, tokens)),
            "dropped_share()": (routing.dropped_share(), ()),
            "dispatch(x)": (slot_inputs, (experts, groups, slots, dim)),
            "combine(…)": (routing.combine(slot_inputs), (groups, tokens, dim)),
        }
        for name, (value, shape) in wanted.items():
            got = tuple(value.shape)
            require(got == shape, f"{name} is {got}, not {shape}; {where}")
        require_all((choice >= 0) & (choice < experts), choice, "first_choice()", "gt", "an expert")


def counts(subject: Subject) -> None:
    """Load, coverage and combine weights agree with D and C; no loss of tokens goes uncounted."""
    for where, _, routing in subject.routings:
        if "huge" in where:
            continue  # there a soft weight may underflow to 0, which D cannot tell from unused
        taken = (routing.dispatch_tensor() != 0).any(-1)
        load, demand = routing.expert_load(), routing.demand()
        require_equal(load, taken.sum(1), f"{where}: expert_load()", "ge", "counting D")
        coverage = routing.token_coverage()
        require_equal(coverage, taken.sum(2), f"{where}: token_coverage()", "gt", "counting D")
        weights = routing.combine_tensor().sum(-1)
        summed = routing.combine_weights()
        require_equal(summed, weights, f"{where}: combine_weights()", "gte", "summing C")
        require_all(demand >= load, demand, f"{where}: demand()", "ge", "at least the load")
        lost = (demand - load).sum() / demand.sum().clamp(min=1)
        share = routing.dropped_share()
        require_equal(share, lost, f"{where}: dropped_share()", "", "counting", tolerance=1e-6)


def gates(subject: Subject) -> None:
    """Each token's gates are a distribution over the experts: none is negative, their sum is 1."""
    for where, _, routing in subject.routings:
        require_finite(routing.gates, f"{where}: gates")
        require_all(routing.gates >= 0, routing.gates, f"{where}: gates", "gte", "0 or more")
        _require_sums_of_one(routing.gates.sum(-1), f"{where}: sum of the gates", "gt")


def slots(subject: Subject) -> None:
    """A slot holds at most one token, an expert no token twice; soft slots hold distributions."""
    for where, _, routing in subject.routings:
        d, c = routing.dispatch_tensor(), routing.combine_tensor()
        if isinstance(routing, SoftRouting):
            _require_sums_of_one(d.sum(1), f"{where}: sum of D over the tokens", "ges")
            _require_sums_of_one(c.sum((2, 3)), f"{where}: sum of C over the slots", "gt")
            require_all(d >= 0, d, f"{where}: D", "gtes", "0 or more")
            require_all(c >= 0, c, f"{where}: C", "gtes", "0 or more")
            continue
        if not isinstance(routing, TokenChoiceRouting | ExpertChoiceRouting | MixtureRouting):
            raise NotApplicable("slots of a routing of its own kind may hold anything")
        require_all((d == 0) | (d == 1), d, f"{where}: D", "gtes", "0 or 1")
        held = d.sum(1)
        require_all(held <= 1, held, f"{where}: tokens in a slot", "ges", "at most 1")
        twice = d.sum(3)
        require_all(twice <= 1, twice, f"{where}: slots of a token", "gte", "at most 1 an expert")
        require_all((c == 0) | (d != 0), c, f"{where}: C", "gtes", "0, for D is 0 there")


def _require_sums_of_one(sums: Tensor, what: str, axes: str) -> None:
    require_all((sums - 1).abs() < 1e-5, sums, what, axes, "1")


def capacity(subject: Subject) -> str:
    """No expert takes more tokens than its capacity, and none drops one while it has room."""
    note = ""
    for where, router, routing in subject.routings:
        if router.spans_batch:
            raise NotApplicable("experts take tokens of the whole batch, by a rule of their own")
        if isinstance(router, LearnedThreshold) and not isinstance(routing, ExpertChoiceRouting):
            continue  # a threshold decides, whatever room there is
        if isinstance(routing, MixtureRouting):
            raise NotApplicable("every expert sees every token by definition")
        if "capacity_factor" not in router.hyper_values():
            raise NotApplicable("the router has no capacity_factor")
        later = router.eval_capacity_factor
        factor = router.capacity_factor if router.training or isinstance(later, str) else later
        if isinstance(routing, SoftRouting):
            _require_soft_slots(router, factor, routing)
            continue
        choices = getattr(router, "top_k", None) or routing.choices or 1
        limits = _own_limits(routing)
        asked = f"{factor} · {subject.tokens} tokens · {choices} / {subject.num_experts} experts"
        if limits is None:
            limit = reference.capacity(factor, subject.tokens, subject.num_experts, choices)
            limits = torch.tensor(limit).expand(subject.num_experts)
        elif factor is not None:
            note = "by the router's own capacities, and what they add up to"
            total, most = int(limits.sum(-1).max()), factor * subject.tokens * choices
            require(
                total <= most + subject.num_experts,
                f"{where}: capacities add up to {total}; {asked} gives {most:g} and rounding",
            )
        _require_within(limits, routing, where, asked)
    return note


def _own_limits(routing: Routing) -> Tensor | None:
    """Return capacities (…, E) if experts differ or tokens choose different numbers of them."""
    if isinstance(routing, ExpertChoiceRouting) and routing.filled is not None:
        return routing.filled.sum(-1)
    if isinstance(routing, TokenChoiceRouting):
        chosen = routing.chosen
        if routing.limits is None and chosen is not None and not chosen.all():
            return torch.tensor(routing.capacity).expand(routing.num_experts)
        return None if routing.limits is None else torch.tensor(routing.limits)
    return None


def _require_within(limits: Tensor, routing: Routing, where: str, asked: str) -> None:
    """Fail with the first expert that takes too many tokens, or drops one that it has room for."""
    load, most = routing.expert_load(), int(limits.max())
    limits = limits.expand_as(load)
    fills_up = isinstance(routing, ExpertChoiceRouting)
    room = limits if fills_up else torch.minimum(limits, routing.demand())
    for wrong, how in (
        (load > limits, "more than its capacity"),
        (load < room, "less than it has room for"),
    ):
        if wrong.any():
            g, e = wrong.nonzero()[0].tolist()
            raise Failed(
                f"{where}: expert {e} of group {g} takes {load[g, e]} of {limits[g, e]} tokens, "
                f"{how} ({asked}); so in {int(wrong.sum())} of {wrong.numel()}"
            )
    require(
        routing.num_slots <= most,
        f"{where}: num_slots = {routing.num_slots} for each expert; {asked} gives {most}",
    )


def _require_soft_slots(router: Router, factor: float | None, routing: Routing) -> None:
    slots = getattr(router, "num_slots", None)
    if slots is None and factor is not None:
        slots = max(1, round(factor * routing.num_tokens / routing.num_experts))
    require(
        slots is None or routing.num_slots == slots,
        f"num_slots = {routing.num_slots} for each expert, not {slots}, as was asked for",
    )
