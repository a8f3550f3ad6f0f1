"""Auxiliary losses: scalars that a recipe weights and adds to the task loss.

Axes: g groups, t tokens, E experts, s slots of an expert, k experts of a token.

A loss is a function of a routing and the batch, `loss(routing, batch, **options)`; its
keyword-only arguments are its options. It is unweighted and covers all tokens of the batch, with
clean gates and population variances; losses that count choices use the gates by which the choices
were made, noise included.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from routers.errors import RequestError, with_article
from routers.logits import filled
from routers.parts import Batch, in_parts
from routers.registry import Registry
from routers.routing import Routing

LOSSES = Registry("loss")
register_loss = LOSSES.register


@register_loss("importance", family="balance", source="arXiv 1701.06538, 2106.05974")
@in_parts(passes=2)
def importance(routing: Routing, batch: Batch) -> Tensor:
    """CV², the squared coefficient of variation, over the experts of the summed gates.

    0 if the gates are spread evenly, E − 1 if one expert has them all. It balances the gates, not
    the number of tokens per expert.
    """
    return _squared_variation(batch.whole(routing.real(routing.gates).sum(0)))


@register_loss("importance_sample", family="balance", source="arXiv 2302.14703")
@in_parts(passes=2)
def importance_sample(routing: Routing, batch: Batch) -> Tensor:
    """`importance` with the sample variance, which is E/(E − 1) times as large.

    The authors of the attentive gate use this one, and their weights for the loss assume it.
    """
    experts = routing.num_experts
    return importance(routing, batch) * experts / max(1, experts - 1)


@register_loss("load", family="balance", source="arXiv 1701.06538, 2106.05974")
@in_parts(passes=2)
def load(routing: Routing, batch: Batch) -> Tensor:
    """CV² over the experts of the mean probability of being chosen if the noise were redrawn.

    An expert is chosen if its logit, with fresh noise, exceeds the k-th largest noisy logit of the
    token. Differentiable in the clean logits and in that threshold.

    Raises:
        RequestError: no noise was added, so the probability is 0 or 1, or tokens do not choose
            experts.
    """
    k = _choices("load", routing)
    if routing.noise_std <= 0 or routing.logits is None or routing.noisy_logits is None:
        raise RequestError(
            "loss 'load' needs noise on the logits, and this routing has noise_std = "
            f"{routing.noise_std}: train with router.noise_std above 0, or use the loss 'gshard'"
        )
    threshold = routing.noisy_logits.topk(k, dim=-1).values[..., -1:]
    margin = (routing.logits - threshold) / routing.noise_std
    # Never chosen, even if a token has fewer than k other experts, when both are −∞.
    margin = margin.masked_fill(routing.logits == -torch.inf, -torch.inf)
    return _squared_variation(batch.whole(routing.real(torch.special.ndtr(margin)).sum(0)))


@register_loss("complexity", family="balance", source="arXiv 2411.18466")
@in_parts(passes=2)
def complexity(routing: Routing, batch: Batch) -> Tensor:
    """½ CV² over the experts of summed gates times parameters, plus ½ of the loss `load` (MoCE-IR).

    The first half is 0 if gates are inversely proportional to parameters, so small experts are
    preferred; with experts of one size it is half of `importance`. The authors' code takes the
    sample variance, which is E/(E − 1) times as large, and weights by parameters only if its
    option `with_complexity` is set; the paper always does.

    Raises:
        RequestError: as for `load`.
    """
    summed = batch.whole(routing.real(routing.gates).sum(0))
    if routing.expert_sizes:
        summed = summed * filled(routing.expert_sizes, summed)
    return (_squared_variation(summed) + load(routing, batch)) / 2


@register_loss("gshard", family="balance", source="arXiv 2006.16668, 2101.03961")
@in_parts(passes=2)
def gshard(routing: Routing, batch: Batch, *, choices: Literal["first", "all"] = "first") -> Tensor:
    """The balance loss E · Σ_e (share of the choices that go to e) · (mean gate of e).

    It counts each token's first choice, or all its choices before any is dropped, as in Mixtral.
    1 if both are even, E if one expert has everything. The gradient flows through the mean gates
    only. With noise these are the noisy gates, by which the choices were made, as in 2101.03961
    and the code of V-MoE.

    Raises:
        RequestError: tokens do not choose experts.
    """
    _choices("gshard", routing)
    if choices == "first":
        first = F.one_hot(routing.real(routing.first_choice()), routing.num_experts)
        counts = first.sum(0)
    else:
        counts = routing.demand().sum(0)
    counts = batch.whole(counts.to(routing.gates.dtype))
    share = counts / counts.sum().clamp(min=1)
    return routing.num_experts * (share * batch.mean(routing.real(_choosing_gates(routing)))).sum()


@register_loss("global_batch", family="balance", source="arXiv 2501.11873")
@in_parts(passes=1)
def global_batch(routing: Routing, batch: Batch) -> Tensor:
    """`gshard` over all choices, with counts summed over the processes of a training run.

    E/(k T) · Σ_e n_e · (mean gate of e), with n_e the choices of expert e and T the tokens of all
    processes, k the mean choices per token, and the mean gate over this process's tokens: the mean
    of the processes' losses is that of the joined batch. An image may be unbalanced as long as the
    batch is not. Over micro-batches n_e is the mean of their counts so far, as in Megatron.

    Raises:
        RequestError: tokens do not choose experts.
    """
    _choices("global_batch", routing)
    counts = batch.so_far(routing.demand().sum(0).to(routing.gates.dtype))
    gates = routing.real(_choosing_gates(routing))
    share = counts / counts.sum().clamp(min=1)
    return routing.num_experts * (share * gates.mean(0)).sum()


@register_loss("sequence_balance", family="balance", source="arXiv 2412.19437")
@in_parts(passes=1)
def sequence_balance(routing: Routing, batch: Batch) -> Tensor:
    """`gshard` over all choices of each image separately, averaged over the images (DeepSeek-V3).

    The gates are the normalised scores, whether softmax or sigmoid.

    Raises:
        RequestError: tokens do not choose experts.
    """
    _choices("sequence_balance", routing)
    images, experts = len(batch.labels), routing.num_experts
    gates = _image_means(routing, _choosing_gates(routing), images)
    taken = routing.sought().reshape(images, -1, experts).sum(1).to(gates.dtype)
    share = taken / taken.sum(-1, keepdim=True).clamp(min=1)
    return experts * (share * gates).sum(-1).mean()


@register_loss("gate_entropy", family="size", source="arXiv 2403.07652, 2404.05089")
@in_parts(passes=1)
def gate_entropy(routing: Routing, batch: Batch) -> Tensor:
    """Mean over the tokens of the entropy of their gates, in nats: it makes each token decided."""
    # At a gate of 0 the entropy's slope is infinite.
    gates = routing.real(routing.gates).clamp(min=torch.finfo(routing.gates.dtype).tiny)
    return _token_mean(routing, batch, torch.special.entr(gates).sum(-1))


@register_loss("router_similarity", family="specialization", source="arXiv 2503.16057")
@in_parts(passes=2)
def router_similarity(routing: Routing, batch: Batch) -> Tensor:
    """Penalise the gates that two experts share if the same tokens take both (Expert Race).

    With P the softmax of the logits and D the 0/1 selection over the t tokens of the batch, P' =
    PᵀP and M = DᵀD: (1/t) · Σ_ef W_ef P'_ef, where on the diagonal W is E·M over the sum of M's
    diagonal, and off it (E² − E)·M over the sum of the rest. W carries no gradient.

    Raises:
        RequestError: the routing was not made from logits, or every expert takes every token.
    """
    if routing.seen_by_all:
        raise RequestError(
            f"loss 'router_similarity' has no meaning for {_kind(routing)}, in which every expert "
            "takes every token: leave it out"
        )
    if routing.logits is None or routing.logits.dim() != 3:
        raise RequestError(
            f"loss 'router_similarity' needs a logit for each expert, and {_kind(routing)} has "
            "none: leave it out"
        )
    selected = routing.real(routing.taken()).to(routing.gates.dtype)
    gates = routing.real(routing.logits).softmax(-1)
    together, experts = batch.whole(selected.T @ selected), routing.num_experts
    own = torch.eye(experts, dtype=torch.bool, device=together.device)
    diagonal = experts * together / together.trace().clamp(min=1)
    rest = together.masked_fill(own, 0)
    weights = torch.where(own, diagonal, (experts**2 - experts) * rest / rest.sum().clamp(min=1))
    shared = batch.whole(gates.T @ gates) / batch.whole(gates.new_full((), len(gates)))
    return (weights * shared).sum()


@register_loss("z", family="size", source="arXiv 2202.08906")
@in_parts(passes=1)
def z(routing: Routing, batch: Batch) -> Tensor:
    """Mean over the tokens of logsumexp(L)², which keeps the logits small.

    Over all E·s slots where the logits have them.

    Raises:
        RequestError: the routing was not made from logits.
    """
    if routing.logits is None:
        raise RequestError(f"loss 'z' needs logits, and {_kind(routing)} has none: leave it out")
    logits = routing.real(routing.logits.flatten(2))
    return _token_mean(routing, batch, logits.logsumexp(-1).square())


@register_loss("sample_similarity", family="specialization", source="arXiv 2302.14703")
def sample_similarity(
    routing: Routing, batch: Batch, *, beta_same: float = 1.0, beta_different: float = 1.0
) -> Tensor:
    """Send similar samples to the same expert and dissimilar ones to different experts (L_s).

    With δ the distance of two inputs over the largest in the batch, and p(e|x) the gates of sample
    x: (1/B²) · [ β_s/E · Σ_{x,x'} Σ_e p(e|x) p(e|x') δ − β_d/(E² − E) · Σ_{x,x'} Σ_{e≠e'} p(e|x)
    p(e'|x') δ ]. A sample is an image: its p is the mean over its tokens.

    Cost: one distance per pair in the batch. The authors' code divides only the second part by B²,
    so their β_s has to be B² times as large here.
    """
    samples = len(batch.labels)
    gates = _image_means(routing, routing.gates, samples)
    inputs = batch.inputs.flatten(1).to(gates.dtype)
    distances = torch.cdist(inputs, inputs)
    distances = distances / distances.max().clamp(min=torch.finfo(gates.dtype).tiny)
    # Entry (e, e'): the sum over all pairs of p(e|x) · p(e'|x') · δ.
    pairs = gates.T @ distances @ gates
    same, experts = pairs.trace(), routing.num_experts
    different = (pairs.sum() - same) / max(experts**2 - experts, 1)
    return (beta_same * same / experts - beta_different * different) / samples**2


def _choosing_gates(routing: Routing) -> Tensor:
    """Return the gates by which the tokens chose, noise included: (g, t, E)."""
    return routing.gates if routing.noisy_gates is None else routing.noisy_gates


def _token_mean(routing: Routing, batch: Batch, values: Tensor) -> Tensor:
    """Return the mean of (n,) values, one of each real token, over the whole batch.

    Without padding the means of the parts, weighed by their images, add up to it: no sums needed.
    """
    return values.mean() if routing.mask is None else batch.mean(values)


def _image_means(routing: Routing, gates: Tensor, images: int) -> Tensor:
    """Return the gates of each image, averaged over its tokens: (images, E)."""
    gates = gates.reshape(images, -1, routing.num_experts)
    if routing.mask is None:
        return gates.mean(1)
    real = routing.mask.reshape(images, -1).sum(1, keepdim=True)
    return gates.sum(1) / real.clamp(min=1)  # padding has gates of 0


def _squared_variation(values: Tensor) -> Tensor:
    """Return the variance of (E,) values divided by their squared mean."""
    return values.var(correction=0) / values.mean().square()


def _choices(loss: str, routing: Routing) -> int:
    """Return k; raise a `RequestError` if tokens do not choose experts."""
    if routing.choices is None:
        raise RequestError(
            f"loss {loss!r} has no meaning for {_kind(routing)}, whose tokens choose no experts: "
            "leave it out, or use the loss 'importance'"
        )
    return routing.choices


def _kind(routing: Routing) -> str:
    return with_article(type(routing).__name__)
