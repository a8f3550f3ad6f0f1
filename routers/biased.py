"""Token choice with a bias on the scores, which affects the choice but never the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.logits import expert_softmax, sigmoid_shares
from routers.router import register_router
from routers.routing import Routing, TokenChoiceRouting
from routers.token_choice import TokenChoice


class BiasedTopK(TokenChoice):
    """Base class: the k experts with the highest score plus bias, weighted by the scores alone.

    Attributes:
        bias: (E,) float, a buffer without a gradient.
    """

    needs_sums = True
    bias: Tensor
    score: Literal["sigmoid", "softmax"] = hyper("sigmoid", "Function from logits to scores.")
    normalize: bool = hyper(False, "For k above 1, divide the weights by their sum.")
    route_scale: float = hyper(1.0, "Factor on all combine weights.", gt=0)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("bias", torch.zeros(self.num_experts))

    def allocate(self, logits: Tensor) -> Routing:
        gates = self.clean_gates(logits)
        scores = gates if self.score == "softmax" else logits.sigmoid()
        biased = self.eligible(scores + self.bias.to(scores.dtype))
        routing = TokenChoiceRouting.top_k(
            scores,
            self.top_k,
            self.capacity(logits, self.top_k),
            scores=biased.masked_fill(logits == -torch.inf, -torch.inf),
            renormalize=self.normalize and self.top_k > 1,
        )
        weights = routing.weights * self.route_scale
        return dataclasses.replace(routing, gates=gates, weights=weights)

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits) if self.score == "softmax" else sigmoid_shares(logits)

    def eligible(self, biased: Tensor) -> Tensor:
        """Return the (g, t, E) scores to choose by, −∞ for experts that may not be chosen."""
        return biased


@register_router(
    "sigmoid_top_k", family="token_choice", display="Sigmoid Top-k", source="arXiv 2412.19437"
)
class SigmoidTopK(BiasedTopK):
    """Each token takes the k experts with its highest sigmoid scores (DeepSeek-V3).

    C = scale · S / Σ S over the chosen, S = σ(L). Experts compete only in the choice, not in the
    score. The bias on the choice stays 0 unless it is loaded.

    With k = 1 the weight is not normalised, as in Megatron: it would be constant, and the gate
    would get no gradient. Cost: that of `softmax_token_choice`. Known limit: by itself it does not
    balance the load; see `loss_free` and the loss `sequence_balance`.
    """

    score: ClassVar[Literal["sigmoid"]] = "sigmoid"  # type: ignore[misc]
    top_k: int = hyper(2, "Experts that each token chooses.", ge=1)
    normalize: bool = hyper(True, "For k above 1, divide the weights by their sum.")


@register_router(
    "loss_free", family="token_choice", display="Loss-Free Balancing", source="arXiv 2408.15664"
)
class LossFree(BiasedTopK):
    """Token choice balanced by a bias on the choice, without an auxiliary loss.

    After each step an expert's bias rises by `update_rate` if it got fewer tokens than the mean,
    and falls by as much if it got more; loads are counted before any drop. The weights are the
    scores without the bias, so balancing adds no gradient. In evaluation the bias is frozen.

    Cost: that of `softmax_token_choice`. Known limit: the bias takes 1 / update_rate steps to
    cross the range of the scores.
    """

    update_rate: float = hyper(
        1e-3, "Change of the bias per step.", gt=0, tune=Range(1e-4, 1e-1, log=True)
    )
    centre: bool = hyper(False, "Subtract the mean from each step's change, as torchtitan does.")

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        load = stats["demand"].to(self.bias.dtype)
        change = (load.mean() - load).sign() * self.update_rate
        self.bias += change - change.mean() if self.centre else change


@register_router(
    "group_limited_top_k",
    family="token_choice",
    display="Group-Limited Top-k",
    source="arXiv 2405.04434, 2412.19437",
)
class GroupLimitedTopK(BiasedTopK):
    """Each token takes its k best experts from its m best groups of experts (DeepSeek-V2, V3).

    The experts form n equal contiguous groups, as devices would hold them, so a token's experts
    lie on few devices. A group's score is the sum of its two best experts (V3), its best (V2), or
    the sum of its k/m best (Megatron). The bias counts in the choice, and stays 0 unless loaded.

    Cost: that of `sigmoid_top_k` plus a top-2 in each group. Known limit: n must divide E.
    """

    prunable = False  # groups must be of equal size
    normalize: bool = hyper(True, "For k above 1, divide the weights by their sum.")
    groups: int = hyper(2, "Groups of experts, n.", ge=1)
    groups_kept: int = hyper(1, "Groups that a token chooses its experts from, m.", ge=1)
    group_score: Literal["top2", "max", "top_k"] = hyper(
        "top2", "Score of a group: its two best experts, its best, or its k/m best."
    )

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        n, m, k, experts = self.groups, self.groups_kept, self.top_k, self.num_experts
        if experts % n:
            raise RequestError(f"groups = {n} does not divide num_experts = {experts}")
        if m > n:
            raise RequestError(f"groups_kept = {m} is more than groups = {n}")
        if k > m * (experts // n):
            raise RequestError(
                f"top_k = {k} is more than the {m * (experts // n)} experts of groups_kept = {m}"
            )
        if self.group_score == "top_k" and k < m:
            raise RequestError(f"group_score = 'top_k' needs top_k of at least groups_kept = {m}")

    def eligible(self, biased: Tensor) -> Tensor:
        grouped = biased.detach().unflatten(-1, (self.groups, -1))
        best = {"top2": 2, "max": 1, "top_k": self.top_k // self.groups_kept}[self.group_score]
        group_scores = grouped.topk(min(best, grouped.shape[-1]), dim=-1).values.sum(-1)
        kept = _highest_mask(group_scores, self.groups_kept)
        return grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(-2)


@register_router(
    "quantile_balancing",
    family="token_choice",
    display="Quantile Balancing",
    source="after arXiv 2502.15451",
)
class QuantileBalancing(TokenChoice):
    """Token choice whose bias is a quantile of the logits: half a step of a balanced assignment.

    Each token takes the k highest of L − β. With α the (k+1)-th largest of a token's L − β, an
    expert's next β is the (tk/E + 1)-th largest of its L − α over the t tokens of the batch,
    averaged over micro-batches, then centred: the price at which it would get its even share. The
    weights are the softmax gates without β. In evaluation β is frozen.

    Cost: a sort of each expert's column. Known limit: β lags by one step.
    """

    needs_sums = True
    bias: Tensor
    ema: float = hyper(0.0, "Share of the previous β kept at each update.", ge=0, lt=1)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("bias", torch.zeros(self.num_experts))

    def allocate(self, logits: Tensor) -> Routing:
        shifted = logits - self.bias.to(logits.dtype)
        routing = TokenChoiceRouting.top_k(
            expert_softmax(logits),
            self.top_k,
            self.capacity(logits, self.top_k),
            scores=shifted,
        )
        if self.training and self.top_k < self.num_experts and logits.numel():
            routing.statistics["passes"] = logits.new_ones(())
            routing.statistics["price"] = even_price(logits.detach(), shifted.detach(), self.top_k)
        return routing

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        if "price" in stats:
            price = stats["price"] / stats["passes"]
            bias = self.ema * self.bias + (1 - self.ema) * price.to(self.bias.dtype)
            self.bias.copy_(bias - bias.mean())


def even_price(logits: Tensor, shifted: Tensor, k: int) -> Tensor:
    """Return the price at which each expert gets its even share of the tokens, (E,).

    Args:
        logits: (g, t, E).
        shifted: (g, t, E), the logits less the current prices.
        k: experts per token, less than E.
    """
    experts = logits.shape[-1]
    alternative = shifted.topk(k + 1, dim=-1).values[..., -1:]
    column = (logits - alternative).flatten(0, 1)
    share = column.shape[0] * k // experts
    price: Tensor = column.topk(share + 1, dim=0).values[-1]
    return price


def _highest_mask(scores: Tensor, k: int) -> Tensor:
    """Mark the k highest scores of each row; ties go to the lowest index."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
