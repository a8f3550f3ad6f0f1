"""Routers whose slots read mixtures of all tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.router import Router, register_router
from routers.routing import Routing, SoftRouting


@register_router(
    "soft_moe", family="soft", display="Soft MoE", source="arXiv 2308.00951, 2401.15969"
)
class SoftMoE(Router):
    """Each slot reads a softmax mixture of all tokens, each token one of all slots' outputs.

    Nothing is dropped and no choice is discrete, so every parameter gets a gradient from every
    token. Cost: a d × E·s product and two (t, E·s) × d products, which grow with the square of the
    number of tokens. Known limit: each slot has its own parameters, so the number of slots is
    fixed, and no token is ever processed by itself.
    """

    affinity: str = hyper("soft", "How tokens become logits: linear, cosine, mlp or soft.")
    capacity_factor: float | None = hyper(
        1.0, "Total slots over the group's tokens, if num_slots is None.", gt=0
    )
    noise_std: float = hyper(
        0.0,
        "Standard deviation of Gaussian noise on the logits in training.",
        ge=0,
        tune=Range(0.0, 2.0),
    )
    num_slots: int | None = hyper(
        None, "Slots of each expert; None gives round(capacity_factor · t / E).", ge=1
    )
    eval_capacity_factor: ClassVar[Literal["same"]] = "same"  # type: ignore[misc]

    @property
    def slots(self) -> int:
        """Slots of each expert."""
        if self.num_slots is not None:
            return self.num_slots
        if self.tokens is None or self.capacity_factor is None:
            raise RequestError(
                f"router {self.name!r} has parameters for each slot: give num_slots, or "
                "capacity_factor and tokens"
            )
        return max(1, round(self.capacity_factor * self.tokens / self.num_experts))

    def options_with(self, num_experts: int) -> dict[str, Any]:
        return super().options_with(num_experts) | {"num_slots": self.slots}

    def build_gate(self) -> nn.Module:
        return self.build_affinity(self.num_experts * self.slots)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        return super().compute_logits(tokens, context).unflatten(-1, (self.num_experts, self.slots))

    def allocate(self, logits: Tensor) -> Routing:
        return SoftRouting.from_logits(logits)

    def logit_noise(self) -> float:
        return self.noise_std
