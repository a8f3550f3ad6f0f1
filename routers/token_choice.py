"""Routers whose tokens choose their experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from routers.errors import RequestError
from routers.hyper import Choice, Range, hyper
from routers.logits import expert_softmax
from routers.router import Router, register_router
from routers.routing import Routing, TokenChoiceRouting
from routers.transport import Plan, sinkhorn_plan


class TokenChoice(Router):
    """Base class of the token-choice routers."""

    top_k: int = hyper(1, "Experts that each token chooses.", ge=1)

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        if self.top_k > self.num_experts:
            raise RequestError(
                f"top_k = {self.top_k} is more than num_experts = {self.num_experts}"
            )


class SoftmaxGates(TokenChoice):
    """Base class of token choice weighted by the softmax of the logits."""

    renormalize: bool = hyper(False, "Divide the combine weights by the sum of the chosen gates.")

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        if self.renormalize and self.top_k == 1:
            raise RequestError(
                "renormalize = True needs top_k of 2 or more: with one expert the weight is "
                "always 1, and the gate gets no gradient"
            )

    def options_with(self, num_experts: int) -> dict[str, Any]:
        # With a single expert the gate is always 1.
        options = super().options_with(num_experts)
        return options | {"renormalize": self.renormalize and options["top_k"] > 1}

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)


@register_router(
    "softmax_token_choice",
    family="token_choice",
    display="Softmax Token Choice",
    source="arXiv 2401.15969, 2106.05974",
)
class SoftmaxTokenChoice(SoftmaxGates):
    """Each token takes the k experts with its highest softmax gates.

    An expert over its capacity drops choices: all first choices are served before the second
    ones, then tokens in order, or the most decided first with `batch_priority`. A dropped choice
    contributes nothing; the block's residual connection carries the token.

    Cost: one d × E product and a sort-free queue of the choices. Known limit: the gate alone
    determines the load, so balancing it takes an auxiliary loss.
    """

    batch_priority: bool = hyper(
        False, "Serve the tokens with the highest gate first.", tune=Choice((False, True))
    )

    def allocate(self, logits: Tensor) -> Routing:
        return TokenChoiceRouting.top_k(
            expert_softmax(logits),
            self.top_k,
            self.capacity(logits, self.top_k),
            logits=logits,
            batch_priority=self.batch_priority,
            renormalize=self.renormalize,
        )


class BySinkhornPlan(Router):
    """Base class: choice by an entropic transport plan of noisy logits, weights by clean gates."""

    iterations: int = hyper(20, "Sinkhorn iterations.", ge=1)
    epsilon: float = hyper(
        1.0, "Weight ε of the plan's entropy.", gt=0, tune=Range(0.1, 10.0, log=True)
    )

    def allocate(self, logits: Tensor) -> Routing:
        return self._by_plan(logits, logits)

    def allocate_noisy(self, logits: Tensor, noisy: Tensor) -> Routing:
        return self._by_plan(logits, noisy)

    def _by_plan(self, logits: Tensor, noisy: Tensor) -> Routing:
        plan = sinkhorn_plan(noisy, iterations=self.iterations, epsilon=self.epsilon)
        routing = self.choose(logits, plan)
        routing.diagnostics["marginal_error"] = plan.marginal_error
        return routing

    def choose(self, logits: Tensor, plan: Plan) -> Routing:
        """Assign tokens by the plan: (g, t, E) clean logits -> a routing."""
        raise TypeError(f"router {type(self).__name__!r} defines no choose(self, logits, plan)")


@register_router(
    "sinkhorn_token_choice",
    family="token_choice",
    display="Sinkhorn Token Choice",
    source="arXiv 2401.15969",
)
class SinkhornTokenChoice(BySinkhornPlan, SoftmaxGates):
    """Each token takes its k best experts in an entropic transport plan.

    The plan maximises ⟨P, L⟩ + ε·H(P) with rows that sum to 1 and columns that sum to t/E, so it is
    nearly balanced before any token is dropped. It decides which token goes where, the most certain
    tokens first, and carries no gradient; the combine weights are the softmax gates of the logits
    without noise.

    Cost: a fixed number of passes over the (t, E) logits. Known limit: the plan sees the whole
    group, so a token's expert depends on the other tokens.
    """

    def allocate_noisy(self, logits: Tensor, noisy: Tensor) -> Routing:
        routing = super().allocate_noisy(logits, noisy)
        return dataclasses.replace(routing, noisy_gates=expert_softmax(noisy))

    def choose(self, logits: Tensor, plan: Plan) -> Routing:
        return TokenChoiceRouting.top_k(
            expert_softmax(logits),
            self.top_k,
            self.capacity(logits, self.top_k),
            scores=plan.scores,
            batch_priority=True,
            renormalize=self.renormalize,
        )
