"""Checks of experts: each in place of whatever it can replace, under routings of every form.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import safetensors.torch
import torch
from torch import Tensor

from bench.check import reference
from bench.check.cases import Setting, accepted, fill_zeros, is_accepted, normal, other_settings
from bench.check.outcome import Failed, NotApplicable, WrongReturn
from bench.check.reference import require, require_equal, require_finite, require_same
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
GROUPS, TOKENS, EXPERTS = 2, 4, 6
WIDTHS = (1, 2, 3, 8)


@dataclass(frozen=True)
class Subject(Setting):
    """Experts in one setting, in place of one module."""

    replaced: Replaced

    @property
    def label(self) -> str:
        """The setting in words."""
        return f"for {self.replaced.what}, {super().label}"

    def build(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Experts:
        """Build experts in eval mode, so that dropout is off; `seed` fixes the weights."""
        torch.default_generator.manual_seed(seed)
        experts = build_experts(
            self.entry.name, num_experts=EXPERTS, replaced=self.replaced, **self.options
        )
        fill_zeros(experts)
        return experts.to(dtype).eval()

    def tokens(self, *, seed: int = 1) -> Tensor:
        """Return (g, t, …) float64, standard normal."""
        return normal(GROUPS, TOKENS, *self.replaced.token_shape, seed=seed)

    @cached_property
    def routings(self) -> dict[str, Routing]:
        """The routings that the experts accept, by kind; they refuse the others with a reason."""
        experts, x = self.build(), self.tokens()
        return accepted(example_routings(), lambda routing: experts.apply(routing, x))

    def outputs(self, experts: Experts, x: Tensor) -> dict[str, Tensor]:
        """Run experts under each routing that they accept; return y by the kind of routing."""
        return {kind: experts.apply(routing, x) for kind, routing in self.routings.items()}


def settings(entry: Entry) -> list[Subject]:
    """Return the experts in every place they can take, with defaults and each option changed."""
    subjects = [
        Subject(entry, options, place)
        for place in PLACES
        if isinstance(place, entry.target.replaces)
        for options in [{}, *other_settings(entry)]
    ]
    usable = [subject for subject in subjects if is_accepted(subject.build)]
    if not usable:
        subjects[0].build()  # raises the reason
    return usable


def example_routings() -> dict[str, Routing]:
    """Return one routing of each form, from (g, t) tokens to E experts, with random gates."""
    logits = normal(GROUPS, TOKENS, EXPERTS, 2, seed=2)
    gates = logits[..., 0].softmax(-1)
    return {
        "mixture": MixtureRouting(gates),
        "token choice": TokenChoiceRouting.top_k(gates, 2, 2),
        "expert choice": ExpertChoiceRouting.top_tokens(gates, 2),
        "soft": SoftRouting.from_logits(logits),
    }


def runs(subject: Subject) -> str:
    """They process the routings that they accept, and refuse others with a reason."""
    require(bool(subject.routings), "they take no routing of any form")
    for kind, y in subject.outputs(subject.build(), subject.tokens()).items():
        returned = f"{kind}: {described(y)} is returned, not a Tensor"
        require(isinstance(y, Tensor), returned, WrongReturn)
        require_finite(y, f"{kind}: y")
    return f"takes {', '.join(subject.routings)}"


def shapes(subject: Subject) -> None:
    """Each token gives one output token, as wide as the output of what they replace."""
    replaced = subject.replaced
    width = getattr(replaced, "outputs", None) or getattr(replaced, "classes", replaced.dim)
    wanted = (GROUPS, TOKENS, width)
    for kind, y in subject.outputs(subject.build(), subject.tokens()).items():
        got = tuple(y.shape)
        require(got == wanted, f"{kind}: the output is {got}, not {wanted}", WrongReturn)


def definition(subject: Subject) -> None:
    """The output is Σ C · expert(Σ D · x), computed one expert, slot and token at a time."""
    experts, x = subject.build(), subject.tokens()
    if type(experts).apply is not Experts.apply:
        raise NotApplicable("they process a routing in a way of their own (apply)")
    alone = one_by_one(experts)
    expected = {
        kind: reference.moe_output(routing.dispatch_tensor(), routing.combine_tensor(), x, alone)
        for kind, routing in subject.routings.items()
    }
    require_same(subject.outputs(experts, x), expected, "{}: y", "gtd", "the loop")


def one_by_one(experts: Experts) -> list[reference.Expert]:
    """Return each expert as a function of one token; the other experts are given zeros."""

    def alone(e: int, token: Tensor) -> Tensor:
        slots = token.new_zeros(experts.num_experts, 1, 1, *token.shape)
        slots[e, 0, 0] = token
        return experts(slots)[e, 0, 0]

    return [partial(alone, e) for e in range(experts.num_experts)]


def apart(subject: Subject) -> None:
    """A token's output depends on no other token, unless routing mixes them."""
    experts, x = subject.build(), subject.tokens()
    if experts.mixes_tokens:
        raise NotApplicable("they mix the tokens of a group by definition")
    other = subject.tokens(seed=7)
    other[0, 0] = x[0, 0]
    for kind, routing in subject.routings.items():
        if not isinstance(routing, SoftRouting):
            y, among = experts.apply(routing, x), experts.apply(routing, other)
            require_equal(among[0, 0], y[0, 0], f"{kind}: y of a token", "d", "among others")


def off(subject: Subject) -> None:
    """Experts with weight 0 contribute nothing; with all off, at most a frozen layer remains."""
    experts, x = subject.build(), subject.tokens()
    zeros, ones = torch.zeros(EXPERTS, dtype=x.dtype), torch.ones(EXPERTS, dtype=x.dtype)
    for kind, routing in subject.routings.items():
        y = experts.apply(routing.reweighted(zeros), x)
        rest = torch.zeros_like(y) if experts.adapted is None else experts.adapted(x)
        require_equal(y, rest, f"{kind}: y with all off", "gtd", "what they adapt")
        y = experts.apply(routing, x)
        again = experts.apply(routing.reweighted(ones), x)
        require_equal(again, y, f"{kind}: y with the factor 1", "gtd", "no factor")


def width(subject: Subject) -> str:
    """Each unit of `width`, by which compute is matched, adds parameters."""
    name = subject.entry.target.width
    if name is None:
        raise NotApplicable("they name no width")
    known = subject.entry.hyper_model.model_fields
    require(name in known, f"width = {name!r} is none of their hyper-parameters")
    sizes = []
    for units in WIDTHS:
        wide = replace(subject, options={**subject.options, name: units})
        sizes.append(sum(parameter.numel() for parameter in wide.build().parameters()))
    shown = ", ".join(f"{size:,}" for size in sizes)
    require(sizes == sorted(set(sizes)), f"parameters at {name} = 1, 2, 3, 8: {shown}")
    return f"{name} = 1 to 8: {sizes[0]:,} to {sizes[-1]:,} parameters"


def gradient(subject: Subject) -> None:
    """The input and every parameter that learns get a gradient from the output."""
    experts, x = subject.build(), subject.tokens().requires_grad_()
    torch.stack(
        [
            (y * normal(*y.shape, seed=3, dtype=y.dtype)).sum()
            for y in subject.outputs(experts, x).values()
        ]
    ).sum().backward()
    learned = {name: p for name, p in experts.named_parameters() if p.requires_grad}
    for name, tensor in {"the input": x, **learned}.items():
        if tensor.grad is None:
            raise Failed(f"{name} gets no gradient from the output")
        require_finite(tensor.grad, f"the gradient of {name}")
        require(bool(tensor.grad.abs().max() > 1e-12), f"the gradient of {name} is 0")


def repeatable(subject: Subject) -> None:
    """In eval mode the same input gives the same bits, whatever the state of any generator."""
    experts, x = subject.build(), subject.tokens()
    torch.default_generator.manual_seed(10)
    first = subject.outputs(experts, x)
    torch.default_generator.manual_seed(11)
    again = subject.outputs(experts, x)
    require_same(again, first, "{}: y", "gtd", "the first pass", 0.0)


def finite(subject: Subject) -> None:
    """The output is finite on zero and large input, also under autocast to 16 bits."""
    experts = subject.build(dtype=torch.float32)
    for size, scale in (("zero", 0.0), ("large", 1e3)):
        x = (scale * subject.tokens()).float()
        for kind, y in subject.outputs(experts, x).items():
            require_finite(y, f"{kind}, {size} input: y")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = subject.outputs(experts, x)
        for kind, y in outputs.items():
            require_finite(y, f"{kind}, {size} input, autocast: y")


def save(subject: Subject) -> None:
    """Experts that are saved and loaded into fresh ones compute as before."""
    experts, fresh, x = subject.build(), subject.build(seed=7), subject.tokens()
    stored = safetensors.torch.save(experts.state_dict())
    fresh.load_state_dict(safetensors.torch.load(stored))
    before = subject.outputs(experts, x)
    require_same(subject.outputs(fresh, x), before, "after loading, {}: y", "gtd", "before")
