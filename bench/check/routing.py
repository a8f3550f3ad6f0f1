"""Checks of one routing: is it what a routing has to be?

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.check import reference
from bench.check.cases import Subject
from bench.check.outcome import Failed, NotApplicable
from bench.check.reference import require, require_all, require_equal, require_finite
from routers import (
    ExpertChoiceRouting,
    MixtureRouting,
    Router,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
)


def shapes(subject: Subject) -> str:
    """Everything that a routing offers has the shape that its readers expect."""
    x = subject.tokens_of()
    groups, tokens, dim, experts = *x.shape, subject.num_experts
    for where, _, routing in subject.routings:
        logits = routing.logits
        require(logits is not None, "routing.logits is None; losses and suites read it")
        assert logits is not None
        slots = routing.num_slots
        full = (groups, tokens, experts, slots)
        slot_inputs = routing.dispatch(x)
        wanted = {
            "dispatch_tensor()": (routing.dispatch_tensor(), full),
            "combine_tensor()": (routing.combine_tensor(), full),
            "logits": (logits if logits.dim() == 3 else logits[..., 0], (groups, tokens, experts)),
            "gates": (routing.gates, (groups, tokens, experts)),
            "combine_weights()": (routing.combine_weights(), (groups, tokens, experts)),
            "expert_load()": (routing.expert_load(), (groups, experts)),
            "demand()": (routing.demand(), (groups, experts)),
            "token_coverage()": (routing.token_coverage(), (groups, tokens)),
            "first_choice()": (routing.first_choice(), (groups, tokens)),
            "dropped_share()": (routing.dropped_share(), ()),
            "dispatch(x)": (slot_inputs, (experts, groups, slots, dim)),
            "combine(…)": (routing.combine(slot_inputs), (groups, tokens, dim)),
        }
        for name, (value, shape) in wanted.items():
            require(
                tuple(value.shape) == shape, f"{name} is {tuple(value.shape)}, not {shape}; {where}"
            )
        choice = routing.first_choice()
        require_all((choice >= 0) & (choice < experts), choice, "first_choice()", "gt", "an expert")
    return ""


def counts(subject: Subject) -> str:
    """Load, coverage and combine weights are those of D and C; nothing is lost unseen."""
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
    return ""


def gates(subject: Subject) -> str:
    """Each token's gates are a distribution over the experts: none negative, their sum 1."""
    for where, _, routing in subject.routings:
        require_finite(routing.gates, f"{where}: gates")
        negative = routing.gates < 0
        require_all(~negative, routing.gates, f"{where}: gates", "gte", "0 or more")
        sums = routing.gates.sum(-1)
        require_all((sums - 1).abs() < 1e-5, sums, f"{where}: sum of the gates", "gt", "1")
    return ""


def slots(subject: Subject) -> str:
    """A slot holds at most one token, a token no expert twice; soft slots hold distributions."""
    for where, _, routing in subject.routings:
        d, c = routing.dispatch_tensor(), routing.combine_tensor()
        if isinstance(routing, SoftRouting):
            _distributions(d.sum(1), f"{where}: sum of D over the tokens", "ges")
            _distributions(c.sum((2, 3)), f"{where}: sum of C over the slots", "gt")
            require_all(d >= 0, d, f"{where}: D", "gtes", "0 or more")
            require_all(c >= 0, c, f"{where}: C", "gtes", "0 or more")
            continue
        if not _is_hard(routing):
            raise NotApplicable("slots of a routing of its own kind may hold anything")
        require_all((d == 0) | (d == 1), d, f"{where}: D", "gtes", "0 or 1")
        held = d.sum(1)
        require_all(held <= 1, held, f"{where}: tokens in a slot", "ges", "at most 1")
        twice = d.sum(3)
        require_all(twice <= 1, twice, f"{where}: slots of a token", "gte", "at most 1 an expert")
        require_all((c == 0) | (d != 0), c, f"{where}: C", "gtes", "0, for D is 0 there")
    return ""


def capacity(subject: Subject) -> str:
    """No expert takes more tokens than its capacity, and none drops one while it has room."""
    note = ""
    for where, router, routing in subject.routings:
        if isinstance(routing, MixtureRouting):
            raise NotApplicable("every expert sees every token by definition")
        if "capacity_factor" not in router.hyper_values():
            raise NotApplicable("the router has no capacity_factor")
        factor = _factor(router)
        if isinstance(routing, SoftRouting):
            _soft_slots(router, factor, routing)
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
        _within(limits, routing, where, asked)
    return note


def _factor(router: Router) -> float | None:
    later: float | str | None = router.eval_capacity_factor
    return router.capacity_factor if router.training or isinstance(later, str) else later


def _own_limits(routing: Routing) -> Tensor | None:
    """Return (…, E) capacities where experts differ, or tokens choose different numbers of them."""
    if isinstance(routing, ExpertChoiceRouting) and routing.filled is not None:
        return routing.filled.sum(-1)
    if isinstance(routing, TokenChoiceRouting):
        chosen = routing.chosen
        if routing.limits is None and chosen is not None and not chosen.all():
            return torch.tensor(routing.capacity).expand(routing.num_experts)
        return routing.limits
    return None


def _within(limits: Tensor, routing: Routing, where: str, asked: str) -> None:
    load, most = routing.expert_load(), int(limits.max())
    limits = limits.expand_as(load)
    _no_expert(load > limits, load, limits, where, f"more than its capacity ({asked})")
    require(
        routing.num_slots <= most,
        f"{where}: num_slots = {routing.num_slots} for each expert; {asked} gives {most}",
    )
    fills_up = isinstance(routing, ExpertChoiceRouting)
    room = limits if fills_up else torch.minimum(limits, routing.demand())
    _no_expert(load < room, load, limits, where, f"less than it has room for ({asked})")


def _no_expert(wrong: Tensor, load: Tensor, limits: Tensor, where: str, how: str) -> None:
    """Fail with the first expert (g, E) that is wrong."""
    if wrong.any():
        g, e = wrong.nonzero()[0].tolist()
        raise Failed(
            f"{where}: expert {e} of group {g} takes {load[g, e]} of {limits[g, e]} tokens, {how}; "
            f"so in {int(wrong.sum())} of {wrong.numel()}"
        )


def _soft_slots(router: Router, factor: float | None, routing: Routing) -> None:
    slots = getattr(router, "num_slots", None)
    if slots is None and factor is not None:
        slots = reference.soft_slots(factor, routing.num_tokens, routing.num_experts)
    require(
        slots is None or routing.num_slots == slots,
        f"num_slots = {routing.num_slots} for each expert, not {slots}, as was asked for",
    )


def _distributions(sums: Tensor, what: str, axes: str) -> None:
    require_all((sums - 1).abs() < 1e-5, sums, what, axes, "1")


def _is_hard(routing: Routing) -> bool:
    """Tell whether the form promises that a slot holds a single token."""
    return isinstance(routing, TokenChoiceRouting | ExpertChoiceRouting | MixtureRouting)
