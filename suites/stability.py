"""Stability: how similarly a model routes the same tokens at other times and in other batches.

Two routings of the same tokens are compared in three ways, each a mean over tokens:

    first_agreement    the first choice is the same: what the router wanted
    set_agreement      Jaccard index of the experts that process the token, after dropping
    share_agreement    Σ_e min(p_e, q_e): 1 less the total variation of the combine shares p and q

Shares are absolute combine weights over their sum. A token that no expert processed has its whole
share at "no expert": it agrees only with another such token.

`between` in `where` says what is compared:

    snapshots             a snapshot and the one before it
    snapshot and end      a snapshot and the last one
    batch sizes           the final model with the batch size of training, and with `batch_size`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from routers.hyper import hyper
from routers.routing import Routing
from suites.support.base import Array, Metric, MetricDef, Suite, layers_and_mean, register_suite
from suites.support.subject import TrialSubject, by_image, why_not_routed


@register_suite("stability", family="routing", source="arXiv 2302.14703")
class Stability(Suite[TrialSubject]):
    """How much the routing of the same tokens changes during training and with the batch.

    Measured on the first images of a split: validation during training, test at the end. The final
    number between snapshots compares the last two. If groups lie within images, the batch changes
    nothing by construction, and the metric carries `where = {"constant": true}`: it is 1 but for
    rounding. So does the set of experts if every expert sees every token.

    A sample of routings is kept, with which the report matches the experts of two seeds.
    """

    on = "trial"
    main_metric = "share_agreement"
    main_where = {"between": "snapshots"}  # noqa: RUF012
    metrics = (
        MetricDef("share_agreement", "share", None, "Overlap of a token's combine shares."),
        MetricDef("first_agreement", "share", None, "Tokens whose first choice is the same."),
        MetricDef(
            "set_agreement", "share", None, "Jaccard index of the experts that process a token."
        ),
        MetricDef(
            "top1_change",
            "share",
            None,
            "Test top-1 in batches of `batch_size` images, less that in batches of the training's "
            "size.",
        ),
        MetricDef(
            "sampled_shares",
            "share",
            None,
            "Combine shares of sampled tokens, (tokens, 1 + E) float16; the first is no expert's.",
        ),
        MetricDef(
            "sampled_first", "", None, "First choices of the sampled tokens, (tokens,) int16."
        ),
    )

    images: int = hyper(256, "Images whose routings are compared, the first of a split.", ge=1)
    batch_size: int = hyper(8, "Batch size to compare with that of training.", ge=1)
    sampled_tokens: int = hyper(
        512, "Evenly spaced tokens of these images whose routing is kept; 0 keeps none.", ge=0
    )

    def applies_to(self, subject: TrialSubject) -> str | None:
        return why_not_routed(subject.model)

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        yield from self.along_training(subject)
        usual = self.observe(subject, subject.model)
        other = self.observe(subject, subject.model, self.batch_size)
        constant = {"constant": True} if usual.within_images and other.within_images else {}
        for metric in compare(usual, other, "batch sizes", split="test"):
            yield replace(metric, where=metric.where | constant)
        change = other.top1 - usual.top1
        yield Metric("top1_change", change, split="test", where=constant)
        for layer, choices in enumerate(usual.layers if self.sampled_tokens else ()):
            yield from choices.sample(layer, self.sampled_tokens)

    def along_training(self, subject: TrialSubject) -> Iterator[Metric]:
        """Compare each snapshot with the one before it and with the last."""
        models = ((each.step, each.load()) for each in subject.snapshots)
        seen = [(step, self.observe(subject, model, split="val")) for step, model in models]
        for (_, before), (step, after) in pairwise(seen):
            yield from compare(before, after, "snapshots", step, "val")
        for step, before in seen[:-1]:
            yield from compare(before, seen[-1][1], "snapshot and end", step, "val")
        if len(seen) > 1:
            one, last = (self.observe(subject, each.load()) for each in subject.snapshots[-2:])
            yield from compare(one, last, "snapshots", split="test")

    def observe(
        self,
        subject: TrialSubject,
        model: nn.Module,
        batch_size: int | None = None,
        split: str = "test",
    ) -> Seen:
        """Run a model on a split, on validation no further than the images compared."""
        by_layer: list[list[Choices]] = []
        seen = right = 0
        within_images = True
        for batch in subject.run(model, split, batch_size):
            images = len(batch.labels)
            by_layer = by_layer or [[] for _ in batch.routings]
            if seen < self.images:
                within_images &= batch.within_images
                for layer, routing in zip(by_layer, batch.routings, strict=True):
                    layer.append(Choices.of(routing, images, self.images - seen))
            seen += images
            right += int((batch.logits.argmax(-1) == batch.labels).sum())
            if split != "test" and seen >= self.images:
                break
        return Seen([Choices.joined(layer) for layer in by_layer], right / seen, within_images)


@dataclass(frozen=True, eq=False)
class Choices:
    """How one MoE layer routed n tokens, on the CPU.

    Attributes:
        first: (n,) long, each token's first choice.
        taken: (n, E) bool, the experts that processed it.
        shares: (n, 1 + E) float, its combine shares; the first is that of no expert.
        seen_by_all: whether every expert processes every token by construction.
    """

    first: Tensor
    taken: Tensor
    shares: Tensor
    seen_by_all: bool

    @classmethod
    def of(cls, routing: Routing, images: int, wanted: int) -> Choices:
        """Read off a routing how the tokens of a batch's first `wanted` images were routed."""
        weights = routing.combine_weights().float().abs()
        total = weights.sum(-1, keepdim=True)
        shares = torch.cat([(total == 0).float(), weights / total.clamp(min=1e-30)], -1)
        first = routing.first_choice().unsqueeze(-1)
        parts = (by_image(each, images)[:wanted] for each in (first, routing.taken(), shares))
        first, taken, shares = (each.flatten(0, 1).cpu() for each in parts)
        return cls(first.squeeze(-1), taken, shares, routing.seen_by_all)

    @classmethod
    def joined(cls, parts: Sequence[Choices]) -> Choices:
        """Join batches into one."""
        tensors = ((each.first, each.taken, each.shares) for each in parts)
        first, taken, shares = map(torch.cat, zip(*tensors, strict=True))
        return cls(first, taken, shares, parts[0].seen_by_all)

    def agreement(self, other: Choices) -> Iterator[Metric]:
        """Compare with another routing of the same tokens."""
        yield Metric("share_agreement", overlap(self.shares, other.shares))
        yield Metric("first_agreement", float((self.first == other.first).double().mean()))
        both, either = self.taken & other.taken, self.taken | other.taken
        jaccard = torch.where(either.any(-1), both.sum(-1) / either.sum(-1).clamp(min=1), 1.0)
        constant = {"constant": True} if self.seen_by_all else {}
        yield Metric("set_agreement", float(jaccard.double().mean()), where=constant)

    def sample(self, layer: int, tokens: int) -> Iterator[Array]:
        """Yield the routing of evenly spaced tokens, as small arrays."""
        spaced = np.linspace(0, len(self.first) - 1, min(tokens, len(self.first))).round()
        index = torch.from_numpy(spaced.astype(np.int64))
        shares = self.shares[index].half().numpy()
        yield Array("sampled_shares", shares, layer, split="test")
        yield Array("sampled_first", self.first[index].short().numpy(), layer, split="test")


@dataclass(frozen=True, eq=False)
class Seen:
    """The routings and answers of a model on the images of a split.

    Attributes:
        layers: the choices of each MoE layer for the images compared, in network order.
        top1: share of right answers; on the test split over all its images.
        within_images: whether no group of tokens spans two images.
    """

    layers: list[Choices]
    top1: float
    within_images: bool


def compare(
    one: Seen, other: Seen, between: str, step: int | None = None, split: str | None = None
) -> Iterator[Metric]:
    """Yield how similarly two passes over the same images routed, per layer and as the mean."""
    layers = [a.agreement(b) for a, b in zip(one.layers, other.layers, strict=True)]
    for metric in layers_and_mean(layers, split):
        yield replace(metric, step=step, where=metric.where | {"between": between})


def overlap(one: Tensor, other: Tensor) -> float:
    """Return the mean over tokens of Σ min(p, q) for two (n, …) tables of distributions."""
    return float(torch.minimum(one, other).double().sum(-1).mean())
