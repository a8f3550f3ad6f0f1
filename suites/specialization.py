"""Specialization: what each expert is for, by switching it off (2402.12550).

On the test split, in each MoE layer, one expert at a time gets combine weight 0; its tokens are
not rerouted. d, (classes,), is the accuracy of each class with all experts less that without this
one, signed. The expert's polysemanticity is the Euclidean distance between d / ‖d‖ and the one-hot
vector of d's largest entry, the first on ties:

    0               it serves one class
    √(2 − 2/√c)     it serves c classes equally
    above √2        every class is better off without it, or as well off; at most 2

If no class's accuracy changes without an expert, the expert has no effect and no polysemanticity.

If it makes no difference to the answers, only images that give the expert weight in that layer are
run again; an expert that no image uses costs nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from routers.hyper import hyper
from routers.routing import Routing
from suites.support.base import (
    CLASS_NAMES,
    Array,
    Metric,
    MetricDef,
    Suite,
    layers_and_mean,
    named_classes,
    register_suite,
)
from suites.support.subject import Observed, TrialSubject, by_image, why_not_routed
from suites.support.top_images import TOP_IMAGES, TopImages

SIMILARITY_OF = ("outputs", "directions")
CLOSE = 1e-2
"""Relative and absolute difference up to which logits count as equal but for rounding."""


@register_suite("specialization", family="routing", source="arXiv 2402.12550")
class Specialization(Suite[TrialSubject]):
    """What each expert is for: the accuracy that each class loses when it is switched off.

    Experts are switched off one by one, in each MoE layer; nothing is rerouted. Known limits: what
    two experts both do does not show, since one of them remains; and with few images of a class,
    answers that change by chance make every expert look polysemantic.
    """

    on = "trial"
    main_metric = "polysemanticity"
    metrics = (
        MetricDef(
            "polysemanticity",
            "",
            "lower",
            "Mean over the experts with an effect of the distance between d / ‖d‖ and the one-hot "
            "vector of d's largest entry, where d is the accuracy that each class loses without "
            "the expert.",
        ),
        MetricDef(
            "experts_with_effect",
            "share",
            None,
            "Share of the experts switched off whose absence changes the accuracy of some class.",
        ),
        MetricDef(
            "largest_drop", "share", None, "Mean over the same experts of d's largest entry."
        ),
        MetricDef(
            "accuracy_drop",
            "share",
            None,
            "Accuracy lost without an expert, mean over the experts switched off.",
        ),
        MetricDef(
            "expert_similarity",
            "",
            "lower",
            "Mean |cosine| of two outputs that a token's experts give it, if experts report them: "
            "`of` outputs, or of the directions made from them, which are combined.",
        ),
        MetricDef("experts_left_out", "experts", None, "Experts that were not switched off."),
        MetricDef("passes", "share", None, "Images run again, over images × experts off."),
        MetricDef(
            "accuracy_change",
            "share",
            None,
            "The vectors d: (E, classes). NaN for experts left out and classes without images.",
        ),
        MetricDef(
            "expert_polysemanticity",
            "",
            "lower",
            "For each expert, (E,); NaN if it was left out or has no effect.",
        ),
        *TOP_IMAGES,
        CLASS_NAMES,
    )

    max_experts: int | None = hyper(
        64, "Experts switched off in each layer, the most used first; None for all.", ge=1
    )
    every: int = hyper(1, "Use every n-th image of the split to switch experts off.", ge=1)
    images: int = hyper(6, "Images kept for each expert shown, those that weight it most.", ge=1)

    def applies_to(self, subject: TrialSubject) -> str | None:
        return why_not_routed(subject.model)

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        shown = self.top_images(subject)
        layers = [
            LayerChanges(index, top.most_used(self.max_experts), top.num_experts, subject)
            for index, top in enumerate(shown)
        ]
        alike = [Similarity() for _ in shown]
        seen = 0
        for batch in subject.run(subject.model, "test"):
            for similarity, routing in zip(alike, batch.routings, strict=True):
                similarity.add(routing)
            chosen = torch.arange(seen, seen + len(batch.labels)) % self.every == 0
            apart = runs_apart(subject, batch)
            for layer, top in zip(layers, shown, strict=True):
                layer.add(batch, chosen, apart)
                top.keep(batch.images, batch.labels, first=seen)
            seen += len(batch.labels)
        metrics = [
            [*layer.metrics(), *similarity.metrics()]
            for layer, similarity in zip(layers, alike, strict=True)
        ]
        yield from layers_and_mean(metrics, "test")
        for index, (layer, top) in enumerate(zip(layers, shown, strict=True)):
            for array in (*layer.arrays(), *top.arrays()):
                yield replace(array, layer=index, split="test")
        yield named_classes(subject.class_names)

    def top_images(self, subject: TrialSubject) -> list[TopImages]:
        """Return how much each layer's experts are used, and which images use them most."""
        layers: list[TopImages] = []
        seen = 0
        for batch in subject.run(subject.model, "test"):
            layers = layers or [TopImages(r.num_experts, self.images) for r in batch.routings]
            for index, layer in enumerate(layers):
                layer.add(image_weights(batch, index), first=seen)
            seen += len(batch.labels)
        return layers


def image_weights(batch: Observed, layer: int) -> Tensor:
    """Sum the combine weights of each image's tokens for each expert of a layer: (n, E) double."""
    weights = batch.routings[layer].combine_weights().abs().double()
    return by_image(weights, len(batch.labels)).sum(1).cpu()


def runs_apart(subject: TrialSubject, batch: Observed) -> bool:
    """Tell whether an image gets the same answer without the rest of its batch.

    No group may hold tokens of two images. Even then a batch of another size rounds differently,
    and a router that reads single bits (`random`) routes differently, so one image is tried.
    """
    if not batch.within_images:
        return False
    alone = subject.answers(subject.model, batch.images[:1], {})
    return torch.allclose(alone, batch.logits[:1], rtol=CLOSE, atol=CLOSE)


class LayerChanges:
    """The changes in answers when some experts of one layer are switched off, one by one.

    Attributes:
        images: (classes,) long, the images of each class that were used.
        lost: (E, classes) long, images answered correctly, less those still so without the expert.
        seen, again: images of the split, and how many were run again.
    """

    def __init__(
        self, layer: int, switched: Sequence[int], num_experts: int, subject: TrialSubject
    ) -> None:
        self.layer, self.switched, self.subject = layer, list(switched), subject
        self.images = np.zeros(subject.num_classes, dtype=np.int64)
        self.lost = np.zeros((num_experts, subject.num_classes), dtype=np.int64)
        self.seen = self.again = 0

    def add(self, batch: Observed, chosen: Tensor, apart: bool) -> None:
        """Switch each expert off for the `chosen` images of a batch, (n,) bool.

        A part of the batch is run by itself if that is allowed (`apart`).
        """
        used = image_weights(batch, self.layer) > 0
        labels, right = batch.labels.cpu(), _right(batch.logits, batch.labels)
        np.add.at(self.images, labels[chosen].numpy(), 1)
        self.seen += len(labels)
        for expert in self.switched:
            # If groups span images, images that do not use the expert are affected, too.
            asked = chosen & used[:, expert] if apart else chosen & used[:, expert].any()
            if not asked.any():
                continue
            part = asked if apart else torch.ones_like(asked)
            factors = torch.ones(used.shape[1])
            factors[expert] = 0
            place = part.to(batch.labels.device)
            images, model = batch.images[place], self.subject.model
            logits = self.subject.answers(model, images, {self.layer: factors})
            still = _right(logits, batch.labels[place])[asked[part]]
            np.add.at(self.lost[expert], labels[asked].numpy(), (right[asked] - still).numpy())
            self.again += len(images)

    @property
    def changes(self) -> np.ndarray:
        """The vectors d: (E, classes), NaN where unknown."""
        known = np.isin(np.arange(len(self.lost)), self.switched)[:, None] & (self.images > 0)
        return np.where(known, self.lost / np.maximum(self.images, 1), np.nan)

    def metrics(self) -> Iterator[Metric]:
        """Yield all numbers in `Specialization.metrics`."""
        changes = self.changes[self.switched]
        effective = changes[(self.lost[self.switched] != 0).any(1)]
        if len(effective):
            values = np.mean(list(map(polysemanticity, effective)))
            yield Metric("polysemanticity", float(values))
            yield Metric("largest_drop", float(np.nanmax(effective, axis=1).mean()))
        yield Metric("experts_with_effect", len(effective) / len(self.switched))
        drops = self.lost[self.switched].sum(1) / self.images.sum()
        yield Metric("accuracy_drop", float(drops.mean()))
        yield Metric("experts_left_out", float(len(self.lost) - len(self.switched)))
        yield Metric("passes", self.again / (self.seen * len(self.switched)))

    def arrays(self) -> Iterator[Array]:
        """Yield the vectors d and their polysemanticities."""
        yield Array("accuracy_change", self.changes.astype(np.float32))
        values = np.array(list(map(polysemanticity, self.changes)), dtype=np.float32)
        yield Array("expert_polysemanticity", values)


class Similarity:
    """The similarity of the outputs that a token's experts give it, in one layer."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(SIMILARITY_OF, 0.0)
        self._pairs = dict.fromkeys(SIMILARITY_OF, 0)

    def add(self, routing: Routing) -> None:
        """Add all pairs of a token's outputs; outputs of length 0 have no direction."""
        for of in SIMILARITY_OF:
            if (vectors := routing.diagnostics.get(f"expert_{of}")) is not None:
                vectors = vectors.double()
                lengths = vectors.norm(dim=-1)
                unit = vectors / lengths.clamp(min=torch.finfo(lengths.dtype).tiny).unsqueeze(-1)
                there = lengths > 0
                pairs = (there.unsqueeze(-1) & there.unsqueeze(-2)).triu(1)
                self._sums[of] += float((unit @ unit.mT).abs()[pairs].sum())
                self._pairs[of] += int(pairs.sum())

    def metrics(self) -> Iterator[Metric]:
        """Yield the mean over all pairs, if there are any."""
        for of, pairs in self._pairs.items():
            if pairs:
                yield Metric("expert_similarity", self._sums[of] / pairs, where={"of": of})


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).long().cpu()


def polysemanticity(change: np.ndarray) -> float:
    """Compute the distance of d / ‖d‖ from the one-hot vector of d's maximum; NaN without effect.

    Args:
        change: d, (classes,); NaN for classes without images.
    """
    d = change[~np.isnan(change)]
    length = np.linalg.norm(d)
    if length == 0:
        return float("nan")
    one_hot = np.arange(len(d)) == d.argmax()
    return float(np.linalg.norm(d / length - one_hot))
