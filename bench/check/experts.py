"""Checks of experts: each on what it can stand in for, under routings of every kind.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from bench.check import reference
from bench.check.cases import in_words, is_accepted, other_settings
from bench.check.outcome import Failed, NotApplicable
from bench.check.reference import require, require_equal, require_finite, require_returned
from bench.model import (
    Experts,
    Replaced,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    build_experts,
)
from routers import (
    Entry,
    ExpertChoiceRouting,
    MixtureRouting,
    RequestError,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
    described,
)

PLACES: tuple[Replaced, ...] = (
    ReplacedMLP(12, 24, std=(0.5, 0.5)),
    ReplacedLinear(12, 7, std=0.5),
    ReplacedNetwork((1, 6, 6), channels=2, widths=(5, 4), classes=3),
)
GROUPS, TOKENS, EXPERTS = 2, 5, 4


@dataclass(frozen=True)
class Subject:
    """Experts in one setting, in the place of one module."""

    entry: Entry
    replaced: Replaced
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """The setting in words."""
        return f"for {self.replaced.what}, {in_words(self.options)}"

    def build(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Experts:
        """Build experts in eval mode, so that no dropout disturbs; `seed` fixes the weights."""
        torch.default_generator.manual_seed(seed)
        experts = build_experts(
            self.entry.name, num_experts=EXPERTS, replaced=self.replaced, **self.options
        )
        for parameter in experts.parameters():
            # What starts at 0 hides what lies behind it.
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.5)
        return experts.to(dtype).eval()

    def tokens(self, *, seed: int = 1) -> Tensor:
        """Return (g, t, …) float64, standard normal."""
        shape = (GROUPS, TOKENS, *self.replaced.token_shape)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    @cached_property
    def routings(self) -> dict[str, Routing]:
        """The routings that the experts accept, by kind; they refuse the others with a reason."""
        experts, x = self.build(), self.tokens()
        return {name: r for name, r in example_routings().items() if _takes(experts, r, x)}


def settings(entry: Entry) -> list[Subject]:
    """Return every place that the experts can take, with their defaults and each option moved."""
    places = [place for place in PLACES if isinstance(place, entry.target.replaces)]
    options = [{}, *other_settings(entry)]
    subjects = [Subject(entry, place, own) for place in places for own in options]
    return [subject for subject in subjects if is_accepted(subject.build)]


def example_routings(seed: int = 2) -> dict[str, Routing]:
    """Return one routing of each form, (g, t) tokens to E experts, with random gates."""
    generator = torch.Generator().manual_seed(seed)
    shape = (GROUPS, TOKENS, EXPERTS, 2)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    gates = logits[..., 0].softmax(-1)
    return {
        "mixture": MixtureRouting(gates),
        "token choice": TokenChoiceRouting.top_k(gates, 2, 2),
        "expert choice": ExpertChoiceRouting.top_tokens(gates, 2),
        "soft": SoftRouting.from_logits(logits),
    }


def runs(subject: Subject) -> str:
    """They process the routings that they take, and refuse others with the reason."""
    taken = subject.routings
    require(bool(taken), "they take no routing of any form")
    for name, y in _outputs(subject):
        require_returned(isinstance(y, Tensor), f"{name}: {described(y)} is returned, not a Tensor")
        require_finite(y, f"{name}: y")
    return f"takes {', '.join(taken)}"


def shapes(subject: Subject) -> str:
    """A token comes out as a token, with the width of what they stand in for."""
    width = getattr(subject.replaced, "outputs", None) or getattr(
        subject.replaced, "classes", subject.replaced.dim
    )
    for name, y in _outputs(subject):
        got = tuple(y.shape)
        wanted = (GROUPS, TOKENS, width)
        require_returned(got == wanted, f"{name}: the output is {got}, not {wanted}")
    return ""


def definition(subject: Subject) -> str:
    """The output is Σ C · expert(Σ D · x), one expert, slot and token after the other."""
    experts, x = subject.build(), subject.tokens()
    if type(experts).apply is not Experts.apply:
        raise NotApplicable("they process a routing in a way of their own (apply)")
    for name, routing in subject.routings.items():
        expected = reference.moe_output(
            routing.dispatch_tensor(), routing.combine_tensor(), x, one_by_one(experts)
        )
        require_equal(experts.apply(routing, x), expected, f"{name}: y", "gtd", "the loop")
    return ""


def one_by_one(experts: Experts) -> list[reference.Expert]:
    """Return each expert as a function of one token; the other experts see zeros meanwhile."""

    def alone(e: int, token: Tensor) -> Tensor:
        slots = token.new_zeros(experts.num_experts, 1, 1, *token.shape)
        slots[e, 0, 0] = token
        return experts(slots)[e, 0, 0]

    return [lambda token, e=e: alone(e, token) for e in range(experts.num_experts)]  # type: ignore[misc]


def apart(subject: Subject) -> str:
    """A token's output depends on no other token, where routing does not mix them."""
    experts, x = subject.build(), subject.tokens()
    other = subject.tokens(seed=7)
    other[0, 0] = x[0, 0]
    for name, routing in subject.routings.items():
        if isinstance(routing, SoftRouting):
            continue
        y, among = experts.apply(routing, x), experts.apply(routing, other)
        require_equal(among[0, 0], y[0, 0], f"{name}: y of a token", "d", "among others")
    return ""


def switched_off(subject: Subject) -> str:
    """Experts with the weight 0 contribute nothing; with all of them off nothing is left."""
    experts, x = subject.build(), subject.tokens()
    for name, routing in subject.routings.items():
        y = experts.apply(routing.reweighted(torch.zeros(EXPERTS, dtype=x.dtype)), x)
        require_equal(y, torch.zeros_like(y), f"{name}: y with all off", "gtd", "nothing")
        y = experts.apply(routing, x)
        ones = torch.ones(EXPERTS, dtype=x.dtype)
        again = experts.apply(routing.reweighted(ones), x)
        require_equal(again, y, f"{name}: y with the factor 1", "gtd", "no factor")
    return ""


def gradient(subject: Subject) -> str:
    """The input and every parameter that learns get a gradient from the output."""
    experts, x = subject.build(), subject.tokens().requires_grad_()
    total = sum(
        (experts.apply(routing, x) * _weights(experts.apply(routing, x))).sum()
        for routing in subject.routings.values()
    )
    assert isinstance(total, Tensor)
    total.backward()
    learned = {name: p for name, p in experts.named_parameters() if p.requires_grad}
    for name, tensor in {"the input": x, **learned}.items():
        if tensor.grad is None:
            raise Failed(f"{name} gets no gradient from the output")
        require_finite(tensor.grad, f"the gradient of {name}")
        require(bool(tensor.grad.abs().max() > 1e-12), f"the gradient of {name} is 0")
    return ""


def repeatable(subject: Subject) -> str:
    """In eval mode the same input gives the same bits, whatever any generator's state."""
    experts, x = subject.build(), subject.tokens()
    for name, routing in subject.routings.items():
        torch.default_generator.manual_seed(10)
        first = experts.apply(routing, x)
        torch.default_generator.manual_seed(11)
        again = experts.apply(routing, x)
        require_equal(again, first, f"{name}: y", "gtd", "the first pass", 0.0)
    return ""


def finite(subject: Subject) -> str:
    """Finite on zero and large input, and under autocast to 16 bits."""
    experts = subject.build(dtype=torch.float32)
    for kind, scale in (("zero", 0.0), ("large", 1e3)):
        x = (scale * subject.tokens()).float()
        for name, routing in subject.routings.items():
            require_finite(experts.apply(routing, x), f"{name}, {kind} input: y")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = experts.apply(routing, x)
            require_finite(y, f"{name}, {kind} input, autocast: y")
    return ""


def saved(subject: Subject) -> str:
    """Experts that were saved and loaded into fresh ones compute as before."""
    experts, fresh, x = subject.build(), subject.build(seed=7), subject.tokens()
    stored = safetensors.torch.save(experts.state_dict())
    fresh.load_state_dict(safetensors.torch.load(stored))
    for name, routing in subject.routings.items():
        y = fresh.apply(routing, x)
        require_equal(y, experts.apply(routing, x), f"after loading, {name}: y", "gtd", "before")
    return ""


def _outputs(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    experts, x = subject.build(), subject.tokens()
    for name, routing in subject.routings.items():
        yield name, experts.apply(routing, x)


def _weights(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)


def _takes(experts: Experts, routing: Routing, x: Tensor) -> bool:
    try:
        experts.apply(routing, x)
    except RequestError:
        return False
    return True


WIDTHS = (1, 2, 3, 8)


def grows(subject: Subject) -> str:
    """Their `width`, by which compute is matched, gives experts more parameters unit by unit."""
    name = subject.entry.target.width
    if name is None:
        raise NotApplicable("they name no width")
    known = subject.entry.hyper_model.model_fields
    require(name in known, f"width = {name!r} is none of their hyper-parameters")
    sizes = []
    for width in WIDTHS:
        wide = replace(subject, options={**subject.options, name: width})
        sizes.append(sum(parameter.numel() for parameter in wide.build().parameters()))
    shown = ", ".join(f"{size:,}" for size in sizes)
    require(sizes == sorted(set(sizes)), f"parameters at {name} = 1, 2, 3, 8: {shown}")
    return f"{name} = 1 to 8: {sizes[0]:,} to {sizes[-1]:,} parameters"
