"""Routers whose experts choose their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.learned_threshold import LearnedThreshold
from routers.logits import exceptional, expert_softmax, ranking
from routers.router import Router, register_router
from routers.routing import ExpertChoiceRouting, Routing, TokenChoiceRouting
from routers.token_choice import BySinkhornPlan
from routers.transport import Plan, sparse_plan


@register_router(
    "softmax_expert_choice",
    family="expert_choice",
    display="Softmax Expert Choice",
    source="arXiv 2202.09368, 2401.15969",
)
class SoftmaxExpertChoice(LearnedThreshold):
    """Each expert takes the s tokens with its highest softmax gates.

    Every slot is used and the load is equal by construction, unless a mask leaves an expert too
    few tokens; a token may get several experts, or none. With `model.groups = batch` the group is
    the whole batch: an image competes with others, in evaluation too. With `evaluation =
    threshold` an expert keeps an exponential mean, over the steps, of its s-th highest gate, and in
    evaluation takes every token whose gate reaches it: then no token depends on another, and the
    load is even only on average.

    Cost: one d × E product and a top-s over the tokens for each expert. Known limit: with
    `evaluation = group`, which tokens are taken depends on the others in the group.
    """

    evaluation: Literal["group", "threshold"] = hyper(
        "group", "Tokens taken in evaluation: the group's best, or all above a learned threshold."
    )
    decay: float = hyper(0.99, "Share of the old threshold kept at each update.", ge=0, lt=1)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.evaluation == "threshold":
            self.keep_threshold()

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        if self.evaluation == "threshold" and (
            self.capacity_factor is None or self.eval_capacity_factor != "same"
        ):
            raise RequestError(
                "evaluation = 'threshold' learns the lowest gate that a capacity lets in, and has "
                f"none in evaluation; here capacity_factor = {self.capacity_factor} and "
                f"eval_capacity_factor = {self.eval_capacity_factor!r}: give a number, and 'same'"
            )

    def allocate(self, logits: Tensor) -> Routing:
        gates = expert_softmax(logits)
        if self.evaluation == "threshold" and not self.training:
            selected = (gates >= self.cutoff(gates)) & (logits > -torch.inf)
            return TokenChoiceRouting.from_mask(gates, gates, selected)
        scores, slots = ranking(logits, gates), self.capacity(logits)
        routing = ExpertChoiceRouting.top_tokens(gates, slots, scores=scores)
        if self.evaluation == "threshold" and slots and len(logits):
            self.note_lowest(routing, gates, slots)
        return routing

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)


@register_router(
    "sinkhorn_expert_choice",
    family="expert_choice",
    display="Sinkhorn Expert Choice",
    source="arXiv 2401.15969",
)
class SinkhornExpertChoice(BySinkhornPlan):
    """Each expert takes the s tokens with the most mass in an entropic transport plan.

    The plan, that of `sinkhorn_token_choice`, only determines the choice; the weights are softmax
    gates without noise. Cost: a fixed number of passes over the (t, E) logits, and a top-s.
    """

    def choose(self, logits: Tensor, plan: Plan) -> Routing:
        gates = expert_softmax(logits)
        return ExpertChoiceRouting.top_tokens(gates, self.capacity(logits), scores=plan.scores)


@register_router(
    "sparsity_constrained_expert_choice",
    family="expert_choice",
    display="Sparsity-constrained Expert Choice",
    source="arXiv 2209.15466, 2401.15969",
)
class SparsityConstrainedExpertChoice(Router):
    """Each expert takes the s tokens in its column of a sparsity-constrained transport plan.

    The plan is read off the maximiser of the semi-dual of max ⟨T, G⟩ − (γ/2)‖T‖² with at most s
    non-zeros per column. A column with fewer is filled up with the next best scores, so slots are
    always full; every combine weight is the softmax gate. The plan is computed without noise and
    carries no gradient.

    Cost: a fixed number of passes over the (t, E) gates, and a top-s; the most expensive of the
    study's routers. Known limit: the rows of the plan sum to 1 only approximately, as the
    diagnostics report.
    """

    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]
    gamma: float = hyper(
        1.0, "Weight γ of the plan's squared norm.", gt=0, tune=Range(0.1, 10.0, log=True)
    )
    iterations: int = hyper(14, "Steps of the solver of the semi-dual.", ge=1)

    def allocate(self, logits: Tensor) -> Routing:
        gates = expert_softmax(logits)
        capacity = self.capacity(logits)
        slots = logits.shape[1] if capacity is None else capacity
        masked = logits == -torch.inf
        open_gates = gates.masked_fill(masked, -torch.inf) if exceptional(masked.any()) else gates
        plan = sparse_plan(open_gates, slots, gamma=self.gamma, iterations=self.iterations)
        routing = ExpertChoiceRouting.from_choices(gates, plan.tokens, plan.top)
        routing.diagnostics["marginal_error"] = plan.marginal_error
        return routing
