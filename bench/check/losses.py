"""Checks of auxiliary losses: each on the routings of routers of every kind.

Axes: g groups, t tokens, E experts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.check.cases import in_words, other_settings
from bench.check.outcome import Failed
from bench.check.reference import require, require_equal, require_finite, require_returned
from routers import (
    Batch,
    Entry,
    RequestError,
    Router,
    RouterContext,
    Routing,
    build_router,
    described,
)

IMAGES, TOKENS, DIM, EXPERTS = 6, 5, 8, 4
ROUTERS: dict[str, dict[str, Any]] = {
    "softmax_token_choice": {"top_k": 2, "noise_std": 1.0},
    "softmax_expert_choice": {"noise_std": 1.0},
    "soft_moe": {"num_slots": 2},
    "softmax_mixture": {},
}
"""One router of each form of routing."""


@dataclass(frozen=True)
class Subject:
    """A loss with certain options."""

    entry: Entry
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """The options in words."""
        return in_words(self.options)

    def of(self, routing: Routing, batch: Batch) -> Tensor:
        """Return the loss."""
        value: Tensor = self.entry.target(routing, batch, **self.options)
        return value

    @cached_property
    def taken(self) -> dict[str, Routing]:
        """The routings that the loss accepts, by router; it refuses the others."""
        accepted = {}
        for name in ROUTERS:
            routing = routed(name)
            try:
                self.of(routing, batch())
            except RequestError:
                continue
            accepted[name] = routing
        return accepted


def settings(entry: Entry) -> list[Subject]:
    """Return the loss with its defaults, and with each option moved from its default."""
    return [Subject(entry, options) for options in ({}, *other_settings(entry))]


def routed(name: str, scale: float = 1.0, order: Tensor | None = None) -> Routing:
    """Route images of random tokens in training mode, in another order where one is given."""
    torch.default_generator.manual_seed(0)
    router: Router = build_router(
        name, dim=DIM, num_experts=EXPERTS, tokens=TOKENS, **ROUTERS[name]
    ).double()
    tokens = scale * torch.randn(IMAGES, TOKENS, DIM, dtype=torch.float64)
    routing: Routing = router(tokens, RouterContext(torch.Generator().manual_seed(1)))
    return routing if order is None else _reordered(router, routing, order)


def batch(scale: float = 1.0, order: Tensor | None = None) -> Batch:
    """Return the images behind the tokens, and their classes."""
    generator = torch.Generator().manual_seed(5)
    inputs = scale * torch.randn(IMAGES, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(IMAGES) % 3
    return Batch(inputs, labels) if order is None else Batch(inputs[order], labels[order])


def runs(subject: Subject) -> str:
    """It is computed for the routings that it has a meaning for, and refuses others."""
    require(bool(subject.taken), "it refuses the routings of every router")
    for name, routing in subject.taken.items():
        value = subject.of(routing, batch())
        require_returned(
            isinstance(value, Tensor), f"{name}: {described(value)} is returned, not a Tensor"
        )
    return f"takes {', '.join(subject.taken)}"


def scalar(subject: Subject) -> str:
    """A loss is one finite number."""
    for name, routing in subject.taken.items():
        value = subject.of(routing, batch())
        require(value.shape == (), f"{name}: the loss has shape {tuple(value.shape)}, not ()")
        require_finite(value, f"{name}: the loss")
    return ""


def gradient(subject: Subject) -> str:
    """It moves the gate: its gradient reaches the router's parameters."""
    for name in subject.taken:
        torch.default_generator.manual_seed(0)
        routing = routed(name)
        logits = routing.logits
        assert logits is not None  # set by the router
        (grad,) = torch.autograd.grad(subject.of(routing, batch()), logits, allow_unused=True)
        if grad is None:
            raise Failed(f"{name}: no gradient reaches the logits")
        require_finite(grad, f"{name}: the gradient of the logits")
        require(bool(grad.abs().max() > 1e-12), f"{name}: the gradient of the logits is 0")
    return ""


def order(subject: Subject) -> str:
    """The order of a batch's images does not matter."""
    shuffled = torch.arange(IMAGES).roll(1)
    for name, routing in subject.taken.items():
        value = subject.of(routed(name, order=shuffled), batch(order=shuffled))
        source = "the first order"
        require_equal(value, subject.of(routing, batch()), f"{name}: the loss", "", source)
    return ""


def finite(subject: Subject) -> str:
    """Finite, with its gradient, where all images are alike and where logits are large."""
    for name in subject.taken:
        for kind, scale in (("equal images", 0.0), ("large logits", 1e3)):
            routing = routed(name, scale)
            value = subject.of(routing, batch(scale))
            require_finite(value, f"{name}, {kind}: the loss")
            assert routing.logits is not None  # set by the router
            (grad,) = torch.autograd.grad(value, routing.logits, allow_unused=True)
            if grad is not None:
                require_finite(grad, f"{name}, {kind}: the gradient of the logits")
    return ""


def pure(subject: Subject) -> str:
    """A loss taken twice of a routing and a batch has the same bits, and leaves both unchanged."""
    for name, routing in subject.taken.items():
        before = routing.gates.detach().clone()
        torch.default_generator.manual_seed(10)
        first = subject.of(routing, batch())
        torch.default_generator.manual_seed(11)
        again = subject.of(routing, batch())
        require_equal(again, first, f"{name}: the loss", "", "the first time", 0.0)
        require_equal(routing.gates, before, f"{name}: the gates", "gte", "before", 0.0)
    return ""


def _reordered(router: Router, routing: Routing, order: Tensor) -> Routing:
    """Return the routing of the images in another order: from the same logits, clean and noisy."""
    logits, noisy = routing.logits, routing.noisy_logits
    assert logits is not None  # set by the router
    assert noisy is not None
    logits, noisy = logits[order], noisy[order]
    again = router.allocate_noisy(logits, noisy) if routing.noise_std else router.allocate(logits)
    return dataclasses.replace(
        again, logits=logits, noisy_logits=noisy, noise_std=routing.noise_std
    )
