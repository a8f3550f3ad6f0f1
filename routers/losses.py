"""Auxiliary losses: scalars that a recipe weighs and adds to the task's loss.

Axes: g groups, t tokens, E experts, s slots of an expert, k experts of a token.

A loss is a function of a routing and the batch, `loss(routing, batch, **options)`; its
keyword-only arguments are its options. It is unweighted, and is taken over all tokens of the
batch, with clean gates and population variances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from routers.errors import RequestError, with_article
from routers.registry import Registry
from routers.routing import Routing

LOSSES = Registry("loss")
register_loss = LOSSES.register


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a loss besides the routing: (batch, …) float, and (batch,) long their classes.

    Raises:
        RequestError: there are no inputs, over which no loss has a mean.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.inputs):
            raise RequestError("a loss is a mean over the images of a batch, and this one has none")


@register_loss("importance", family="balance", source="arXiv 1701.06538, 2106.05974")
def importance(routing: Routing, batch: Batch) -> Tensor:
    """CV² over the experts of the summed gates.

    0 where the gates are spread evenly, E − 1 where one expert has them all. It balances what the
    gates give, not how many tokens an expert gets.
    """
    return _squared_variation(routing.gates.sum((0, 1)))


@register_loss("load", family="balance", source="arXiv 1701.06538, 2106.05974")
def load(routing: Routing, batch: Batch) -> Tensor:
    """CV² over the experts of the mean probability to be chosen if the noise were drawn again.

    An expert is chosen where its logit, with fresh noise, is above the k-th largest noisy logit
    of the token. Differentiable, in the clean logits and in that threshold.

    Raises:
        RequestError: no noise was added, so that the probability is 0 or 1, or the tokens choose
            no experts.
    """
    k = _choices("load", routing)
    if routing.noise_std <= 0 or routing.logits is None or routing.noisy_logits is None:
        raise RequestError(
            "loss 'load' needs noise on the logits, and this routing has noise_std = "
            f"{routing.noise_std}: train with router.noise_std above 0, or use the loss 'gshard'"
        )
    threshold = routing.noisy_logits.topk(k, dim=-1).values[..., -1:]
    margin = (routing.logits - threshold) / routing.noise_std
    # Never chosen, also where a token has fewer than k other experts: both are −∞ there.
    margin = margin.masked_fill(routing.logits == -torch.inf, -torch.inf)
    return _squared_variation(torch.special.ndtr(margin).mean((0, 1)))


@register_loss("gshard", family="balance", source="arXiv 2006.16668, 2101.03961")
def gshard(routing: Routing, batch: Batch) -> Tensor:
    """E · Σ_e (share of the tokens whose first choice is e) · (mean gate of e).

    1 where both are even, E where one expert has everything. The gradient flows through the mean
    gates alone.

    Raises:
        RequestError: the tokens choose no experts.
    """
    _choices("gshard", routing)
    experts = routing.num_experts
    first = F.one_hot(routing.first_choice(), experts).to(routing.gates.dtype)
    return experts * (first.mean((0, 1)) * routing.gates.mean((0, 1))).sum()


@register_loss("z", family="size", source="arXiv 2202.08906")
def z(routing: Routing, batch: Batch) -> Tensor:
    """Mean over the tokens of logsumexp(L)², which keeps the logits small.

    Over all E·s slots where the logits have them.

    Raises:
        RequestError: the routing was not made from logits.
    """
    if routing.logits is None:
        raise RequestError(f"loss 'z' needs logits, and {_kind(routing)} has none: leave it out")
    return routing.logits.flatten(2).logsumexp(-1).square().mean()


@register_loss("sample_similarity", family="specialization", source="arXiv 2302.14703")
def sample_similarity(
    routing: Routing, batch: Batch, *, beta_same: float = 1.0, beta_different: float = 1.0
) -> Tensor:
    """Like samples to the same expert, unlike ones to different experts (L_s).

    With δ the distance of two inputs over the largest of the batch, and p(e|x) the gates of sample
    x: (1/B²) · [ β_s/E · Σ_{x,x'} Σ_e p(e|x) p(e|x') δ − β_d/(E² − E) · Σ_{x,x'} Σ_{e≠e'} p(e|x)
    p(e'|x') δ ]. A sample is an image: its p is the mean over its tokens.

    Cost: a distance for each pair of the batch. The authors' code divides the second part alone by
    B², so its β_s is B² times as much here.
    """
    samples = len(batch.labels)
    gates = routing.gates.reshape(samples, -1, routing.num_experts).mean(1)
    inputs = batch.inputs.flatten(1).to(gates.dtype)
    distances = torch.cdist(inputs, inputs)
    distances = distances / distances.max().clamp(min=torch.finfo(gates.dtype).tiny)
    # Entry (e, e'): the sum over all pairs of p(e|x) · p(e'|x') · δ.
    pairs = gates.T @ distances @ gates
    same, experts = pairs.trace(), routing.num_experts
    different = (pairs.sum() - same) / max(experts**2 - experts, 1)
    return (beta_same * same / experts - beta_different * different) / samples**2


def _squared_variation(values: Tensor) -> Tensor:
    """Compute the variance over the squared mean of (E,) values."""
    return values.var(correction=0) / values.mean().square()


def _choices(loss: str, routing: Routing) -> int:
    """Return k; a `RequestError` where the tokens choose no experts."""
    if routing.choices is None:
        raise RequestError(
            f"loss {loss!r} has no meaning for {_kind(routing)}, whose tokens choose no experts: "
            "leave it out, or use the loss 'importance'"
        )
    return routing.choices


def _kind(routing: Routing) -> str:
    return with_article(type(routing).__name__)
