"""Experts take tokens from the whole batch in training, and by a learned threshold afterwards.

Such a router spans the batch: all tokens that it gets compete, whatever their group. In evaluation
a threshold decides on each token separately, so that no image depends on others.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.affinity import Deep
from routers.errors import RequestError
from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.learned_threshold import LearnedThreshold
from routers.logits import expert_softmax
from routers.parts import Batch
from routers.relu import with_deviation
from routers.router import RAGGED, Router, register_router
from routers.routing import Routing, TokenChoiceRouting


class BatchChoice(Router):
    """Base class of routers whose experts take tokens from the whole batch.

    Attributes:
        threshold: a buffer, the lowest score at which a pair is chosen in evaluation.
    """

    spans_batch = True
    host_reads = RAGGED
    threshold: Tensor
    eval_capacity_factor: ClassVar[Literal["same"]] = "same"  # type: ignore[misc]
    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]


class MeanThreshold(BatchChoice):
    """Base class of those whose threshold is the exponential mean of the lowest score taken.

    Attributes:
        decay: share of the old threshold kept at each update.
    """

    decay: float

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        if "lowest" in stats:
            self.threshold.lerp_(stats["lowest"].to(self.threshold.dtype), 1 - self.decay)


@register_router(
    "expert_race", family="expert_choice", display="Expert Race", source="arXiv 2503.16057"
)
class ExpertRace(MeanThreshold):
    """Of all pairs of a token and an expert in the batch, the k · t with the highest logits win.

    Tokens compete with tokens and experts with experts, so a hard token may take many experts and
    an easy one none. The weight of a chosen pair is its logit, which may be negative. The lowest
    winning logit, averaged over the steps (decay 0.95, from 1), is the threshold in evaluation.

    It is meant to be used with the paper's loss `router_similarity`, at weight 1e-4, and per-layer
    regularisation (`per_layer_weight`): in each layer a linear head on the gate's hidden vector
    predicts a token's final target, and its loss is added, so that shallow layers get a direct
    gradient. The paper generates images; here the target is the class of the token's image, and the
    loss is the mean cross-entropy over the tokens. We do not know its weight in the paper, so it is
    off by default. Cost: a sort of all pairs; in training also the head, a d × classes product per
    token. Known limit: one expert may take everything.
    """

    capacity_factor: ClassVar[None] = None  # type: ignore[misc]
    affinity: str = hyper("gelu_mlp", "How tokens become logits: linear, cosine, mlp, gelu_mlp.")
    top_k: float = hyper(1.0, "Mean number of experts per token.", gt=0)
    decay: float = hyper(0.95, "Share of the old threshold kept at each update.", ge=0, lt=1)
    per_layer_weight: float = hyper(
        0.0, "Weight of the loss for predicting the class from the gate's hidden vector.", ge=0
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.top_k > self.num_experts:
            raise RequestError(
                f"top_k = {self.top_k} is more than num_experts = {self.num_experts}"
            )
        self.register_buffer("threshold", torch.ones(()))
        self.head = self._build_head() if self.per_layer_weight else None
        self._hidden: Tensor | None = None

    def _build_head(self) -> nn.Linear:
        if not isinstance(self.gate, Deep):
            raise RequestError(
                f"per_layer_weight = {self.per_layer_weight} reads the gate's hidden vector, and "
                f"the affinity {self.affinity!r} has none: use 'gelu_mlp' or 'mlp'"
            )
        if not self.site.classes:
            raise RequestError(
                f"per_layer_weight = {self.per_layer_weight} predicts classes, whose number is not "
                "known here: give site=Site(classes=…), or a model with a classifier to moefy"
            )
        return nn.Linear(self.gate.width, self.site.classes)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        if self.head is None or not self.training:
            return super().compute_logits(tokens, context)
        assert isinstance(self.gate, Deep)  # see `_build_head`
        self._hidden = self.gate.body(tokens)  # for `complete`, in the same call
        return F.linear(self._hidden, self.gate.outer)

    def complete(self, routing: Routing, tokens: Tensor) -> Routing:
        hidden, self._hidden = self._hidden, None
        return dataclasses.replace(routing, hidden=hidden)

    def own_loss(self, routing: Routing, batch: Batch) -> Tensor | None:
        if self.head is None or routing.hidden is None:
            return None
        groups, tokens = routing.hidden.shape[:2]
        labels = batch.labels.repeat_interleave(groups * tokens // len(batch.labels))
        targets = routing.real(labels.view(groups, tokens))
        predicted = self.head(routing.real(routing.hidden))
        loss = batch.whole(F.cross_entropy(predicted, targets, reduction="sum"))
        real = batch.whole(loss.new_full((), len(targets))).clamp(min=1)
        return self.per_layer_weight * (loss / real)

    def allocate(self, logits: Tensor) -> Routing:
        gates, statistics = expert_softmax(logits), {}
        if self.training and logits.numel():
            pairs = max(1, int(self.top_k * logits.shape[:2].numel()))
            lowest = logits.detach().flatten().topk(pairs, sorted=False).values.amin()
            statistics["lowest"] = lowest
        else:
            lowest = self.threshold.to(logits.dtype)
        selected = (logits >= lowest) & (logits > -torch.inf)
        routing = TokenChoiceRouting.from_mask(gates, logits, selected)
        routing.statistics.update(statistics)
        return routing


@register_router(
    "expert_threshold",
    family="expert_choice",
    display="Expert Threshold",
    source="arXiv 2603.11535",
)
class ExpertThreshold(BatchChoice, LearnedThreshold):
    """Each expert takes every token whose logit reaches the expert's threshold.

    For `warmup_steps` steps each expert takes the s = ⌊t / expansion⌋ best tokens of the batch.
    From then on, and always in evaluation, it takes every token that reaches c, an exponential mean
    over the steps of its s-th largest logit, corrected for its start at 0. The weight is σ(L).
    Routing is causal: no token depends on another of its batch. A token may take no expert.

    The decay is the paper's; the authors' code has 0.99. Cost: that of a linear gate, and in
    training a top-s of each column. Known limit: loads follow the threshold only on average.
    """

    capacity_factor: ClassVar[None] = None  # type: ignore[misc]
    expansion: float = hyper(8.0, "Ratio of all tokens to those that each expert takes.", ge=1)
    warmup_steps: int = hyper(4000, "Steps of expert choice before the threshold decides.", ge=0)
    decay: float = hyper(0.999, "Share of the old threshold kept at each update.", ge=0, lt=1)
    slack: float | None = hyper(
        None, "In training, loads stay within this share of s; None sets no bounds.", ge=0
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.keep_threshold()

    def allocate(self, logits: Tensor) -> Routing:
        scores = logits.detach()
        ranks = batch_ranks(scores)
        share = max(1, int(logits.shape[:2].numel() / self.expansion))
        selected = scores >= self.cutoff(scores)
        if self.training:
            if self.slack is not None:
                low, high = (int(share * (1 + sign * self.slack)) for sign in (-1, 1))
                selected = ranks < selected.sum((0, 1)).clamp(low, high)
            selected = torch.where(self.updates < self.warmup_steps, ranks < share, selected)
        selected = selected & (scores > -torch.inf)
        weights = logits.sigmoid()
        routing = TokenChoiceRouting.from_mask(expert_softmax(logits), weights, selected)
        if self.training and logits.numel():
            self.note_lowest(routing, scores.flatten(0, 1).unsqueeze(0), share)
        return routing


@register_router("diffmoe", family="expert_choice", display="DiffMoE", source="arXiv 2503.14487")
class DiffMoE(MeanThreshold):
    """Experts take the best tokens of the whole batch, and a predictor learns which those are.

    In training each expert takes the s = ⌊capacity_factor · t / E⌋ tokens with its highest softmax
    gates, which are the weights. A small network on the tokens, with no gradient into them, learns
    by cross-entropy which were chosen; the s-th largest of its probabilities, averaged over the
    steps (`decay`, from 0), is the expert's threshold. In evaluation the expert takes the tokens
    above it (the paper's text), or as many tokens, by their gates (the authors' code), which
    depends on the batch.

    Cost: the predictor, d² + dE multiplications per token. Known limit: the threshold starts at 0,
    and is far too low for about 3 / (1 − decay) steps.

    Attributes:
        threshold: (E,).
    """

    capacity_factor: float = hyper(1.0, "Total slots over the tokens of the batch.", gt=0)
    decay: float = hyper(0.95, "Share of the old threshold kept at each update.", ge=0, lt=1)
    evaluation: Literal["threshold", "count"] = hyper(
        "threshold", "Evaluation takes tokens above the threshold, or as many by their gates."
    )
    predictor_weight: float = hyper(
        1.0, "Weight of the predictor's cross-entropy.", ge=0, tune=Range(0.01, 1.0, log=True)
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.predictor = nn.Sequential(
            nn.Linear(self.dim, self.dim), nn.SiLU(), nn.Linear(self.dim, self.num_experts)
        )
        self.register_buffer("threshold", torch.zeros(self.num_experts))

    def build_gate(self) -> nn.Module:
        return with_deviation(super().build_gate(), 0.006)

    def share(self, logits: Tensor) -> int:
        """Return s for (g, t, E) logits."""
        tokens, experts = logits.shape[:2].numel(), logits.shape[2]
        return min(tokens, max(1, int(self.capacity_factor * tokens / experts + 1e-9)))

    def allocate(self, logits: Tensor) -> Routing:
        gates = expert_softmax(logits)
        selected = (batch_ranks(logits, gates) < self.share(logits)) & (logits > -torch.inf)
        return TokenChoiceRouting.from_mask(gates, gates, selected)

    def complete(self, routing: Routing, tokens: Tensor) -> Routing:
        predicted = self.predictor(tokens.detach())
        assert routing.logits is not None
        logits = routing.logits
        if self.training and logits.numel():
            taken = routing.taken().to(predicted.dtype)
            loss = F.binary_cross_entropy_with_logits(predicted, taken)
            probable = predicted.detach().sigmoid().flatten(0, 1)
            lowest = probable.topk(self.share(logits), dim=0).values[-1]
            routing.statistics["lowest"] = lowest
            return dataclasses.replace(routing, loss=self.predictor_weight * loss)
        above = predicted.sigmoid() > self.threshold.to(predicted.dtype)
        if self.evaluation == "count":
            above = batch_ranks(logits, routing.gates) < above.sum((0, 1))
        selected = above & (logits > -torch.inf)
        chosen = TokenChoiceRouting.from_mask(routing.gates, routing.gates, selected)
        return dataclasses.replace(
            chosen, logits=logits, noisy_logits=logits, refused=routing.refused
        )


@torch.no_grad()
def batch_ranks(scores: Tensor, first: Tensor | None = None) -> Tensor:
    """Rank the tokens of the batch for each expert, from 0 for the highest.

    Ties go to the earliest token.

    Args:
        scores: (g, t, E).
        first: (g, t, E) to rank by before the scores, which then break its ties.
    """
    column = scores.flatten(0, 1)
    order = column.argsort(dim=0, descending=True, stable=True)
    if first is not None:
        again = first.flatten(0, 1).gather(0, order).argsort(dim=0, descending=True, stable=True)
        order = order.gather(0, again)
    rank = torch.arange(len(column), device=scores.device).unsqueeze(-1).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, rank).view_as(scores)
