"""Checks of auxiliary losses: each on routings of every form.

Axes: g groups, t tokens, E experts.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.check.cases import Setting, accepted, normal, other_settings
from bench.check.outcome import Failed, WrongReturn
from bench.check.reference import require, require_equal, require_finite
from routers import Batch, Entry, RouterContext, Routing, build_router, described

IMAGES, TOKENS, DIM, EXPERTS = 6, 5, 8, 4
ROUTERS: dict[str, dict[str, Any]] = {
    "softmax_token_choice": {"top_k": 2, "noise_std": 1.0},
    "softmax_expert_choice": {"noise_std": 1.0},
    "soft_moe": {"num_slots": 2},
    "softmax_mixture": {},
}
"""One router of each form of routing."""


@dataclass(frozen=True)
class Subject(Setting):
    """A loss with certain options."""

    def of(self, routing: Routing, images: Batch) -> Tensor:
        value: Tensor = self.entry.target(routing, images, **self.options)
        return value

    @cached_property
    def routings(self) -> dict[str, Routing]:
        """The routings that the loss accepts, by router; it refuses the others."""
        return accepted(
            {name: routed(name) for name in ROUTERS}, lambda routing: self.of(routing, batch())
        )

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the loss of each routing that it accepts, with the router's name."""
        for name, routing in self.routings.items():
            yield name, self.of(routing, batch())


def settings(entry: Entry) -> list[Subject]:
    """Return the loss with its defaults, and with each option changed from its default."""
    return [Subject(entry, options) for options in ({}, *other_settings(entry))]


def routed(name: str, scale: float = 1.0, order: Tensor | None = None) -> Routing:
    """Route images of random tokens in training mode, in another order if one is given.

    The routing in another order is made from the same logits, clean and noisy.
    """
    torch.default_generator.manual_seed(0)
    router = build_router(name, dim=DIM, num_experts=EXPERTS, tokens=TOKENS, **ROUTERS[name])
    tokens = scale * torch.randn(IMAGES, TOKENS, DIM, dtype=torch.float64)
    routing: Routing = router.double()(tokens, RouterContext(torch.Generator().manual_seed(1)))
    if order is None:
        return routing
    assert routing.logits is not None  # set by the router
    assert routing.noisy_logits is not None
    logits, noisy = routing.logits[order], routing.noisy_logits[order]
    again = router.allocate_noisy(logits, noisy) if routing.noise_std else router.allocate(logits)
    return dataclasses.replace(
        again, logits=logits, noisy_logits=noisy, noise_std=routing.noise_std
    )


def batch(scale: float = 1.0, order: Tensor | None = None) -> Batch:
    """Return the images behind the tokens, and their classes."""
    inputs, labels = scale * normal(IMAGES, 1, 4, 4, seed=5), torch.arange(IMAGES) % 3
    return Batch(inputs, labels) if order is None else Batch(inputs[order], labels[order])


def runs(subject: Subject) -> str:
    """It is computed for the routings for which it has a meaning, and refuses others."""
    require(bool(subject.routings), "it refuses the routings of every router")
    for name, value in subject.values():
        returned = f"{name}: {described(value)} is returned, not a Tensor"
        require(isinstance(value, Tensor), returned, WrongReturn)
    return f"takes {', '.join(subject.routings)}"


def scalar(subject: Subject) -> None:
    """The loss is a single finite number."""
    for name, value in subject.values():
        require(value.shape == (), f"{name}: the loss has shape {tuple(value.shape)}, not ()")
        require_finite(value, f"{name}: the loss")


def gradient(subject: Subject) -> None:
    """It moves the gate: its gradient reaches the router's parameters."""
    for name in subject.routings:
        routing = routed(name)
        grad = _gradient(routing, subject.of(routing, batch()))
        if grad is None:
            raise Failed(f"{name}: no gradient reaches the logits")
        require_finite(grad, f"{name}: the gradient of the logits")
        require(bool(grad.abs().max() > 1e-12), f"{name}: the gradient of the logits is 0")


def _gradient(routing: Routing, value: Tensor) -> Tensor | None:
    """Return the gradient of a value in the logits, or None if it does not depend on them."""
    assert routing.logits is not None  # set by the router
    (grad,) = torch.autograd.grad(value, routing.logits, allow_unused=True)
    return grad


def order(subject: Subject) -> None:
    """The order of a batch's images does not matter."""
    shuffled = torch.arange(IMAGES).roll(1)
    for name, first in subject.values():
        value = subject.of(routed(name, order=shuffled), batch(order=shuffled))
        require_equal(value, first, f"{name}: the loss", "", "the first order")


def finite(subject: Subject) -> None:
    """The loss and its gradient are finite if all images are alike, and if logits are large."""
    for name in subject.routings:
        for kind, scale in (("equal images", 0.0), ("large logits", 1e3)):
            routing = routed(name, scale)
            value = subject.of(routing, batch(scale))
            require_finite(value, f"{name}, {kind}: the loss")
            grad = _gradient(routing, value)
            if grad is not None:
                require_finite(grad, f"{name}, {kind}: the gradient of the logits")


def pure(subject: Subject) -> None:
    """Computing it twice from a routing and a batch gives the same bits and changes neither."""
    for name, routing in subject.routings.items():
        before = routing.gates.detach().clone()
        torch.default_generator.manual_seed(10)
        first = subject.of(routing, batch())
        torch.default_generator.manual_seed(11)
        again = subject.of(routing, batch())
        require_equal(again, first, f"{name}: the loss", "", "the first time", 0.0)
        require_equal(routing.gates, before, f"{name}: the gates", "gte", "before", 0.0)
