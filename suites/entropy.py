"""Entropy: how decided a router is, and what its choices know of the classes (2302.14703).

Every token of the test split has a distribution p over the E experts, and the class of its image.
p is read in two ways, `of` in `where`, and normalised to sum to 1:

    gates      what the router wanted
    combine    what it did: combine weights, summed over an expert's slots

and each comes in two kinds, `kind` in `where`:

    soft       p itself
    hard       one-hot at the largest p, the first on ties

H_s is also measured for the model before its first step (step 0), on the first images: a gate with
the same entropy then as at the end has hardly learned.

A table T[class, expert] is the sum of p over the tokens of a class. A token that no expert
processed has no p and is left out. All entropies are in bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from routers.errors import UndefinedError
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
from suites.support.information import (
    KINDS,
    ImageMasses,
    class_table,
    entropy_bits,
    mutual_information_bits,
)
from suites.support.subject import TrialSubject, chosen_experts_answers, routers_of, why_not_routed

OF = ("gates", "combine")


def _information(name: str, what: str) -> tuple[MetricDef, ...]:
    return (
        MetricDef(name, "bit", None, f"I(E;Y): mutual information of a token's expert and {what}."),
        MetricDef(
            f"{name}_corrected",
            "bit",
            None,
            f"{name} less its mean over permutations of the images' classes (plug-in bias).",
        ),
        MetricDef(
            f"{name}_normalised",
            "",
            None,
            f"{name}_corrected over min(H(E), H(Y)) less the same bias: 1 is all that can be "
            "known. It is left out if nothing can be known.",
        ),
    )


@register_suite("entropy", family="routing", source="arXiv 2302.14703")
class Entropy(Suite[TrialSubject]):
    """How decided the router is, how evenly it uses experts, and what they know of the classes.

    Metrics carry `where = {"of": "gates" or "combine", "kind": "soft" or "hard"}`: what the
    router wanted or did; its distribution or the largest entry of it. Known limit: if gates are
    equal by definition, as with top-2 of `random`, the hard kind sees only the first.
    """

    on = "trial"
    main_metric = "MI_label_normalised"
    main_where = {"of": "combine", "kind": "soft"}  # noqa: RUF012
    metrics = (
        MetricDef("H_s", "bit", None, "Mean entropy of a token's p: 0 is decided. Soft only."),
        MetricDef("H_u", "bit", None, "Entropy of the mean p: log2 E means even use."),
        *_information("MI_label", "its image's class"),
        *_information("MI_prediction", "the class predicted for its image"),
        MetricDef("left_out", "share", None, "Tokens without a p: no expert processed them."),
        MetricDef("class_expert", "tokens", None, "The table T: (classes, E)."),
        MetricDef("expert_sizes", "parameters", None, "Size of each expert, (E,), if they differ."),
        MetricDef(
            "kind_share",
            "share",
            None,
            "Share of each kind among the experts that processed a token, if there are several.",
        ),
        MetricDef("class_kind", "share", None, "That share for each class: (classes, kinds)."),
        MetricDef("kind_names", "", None, "Names of the kinds, in the order of `class_kind`."),
        CLASS_NAMES,
    )

    prediction: Literal["model", "expert"] = hyper(
        "model",
        "Who predicts an image's class: the model, or its chosen expert (2302.14703).",
    )
    permutations: int = hyper(20, "Permutations of the classes, to estimate the bias.", ge=1)
    seed: int = hyper(0, "Seed of the permutations.", ge=0, lt=2**32)
    start_images: int = hyper(
        512, "Test images for H_s before the first step; 0 leaves it out.", ge=0
    )

    def applies_to(self, subject: TrialSubject) -> str | None:
        if self.prediction == "expert" and len(routers_of(subject.model)) > 1:
            return "no expert predicts a class in a model of several MoE layers"
        return why_not_routed(subject.model)

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        yield from self.at_start(subject)
        layers = [LayerMasses(router.site.kinds) for router in routers_of(subject.model)]
        labels, predictions = [], []
        for batch in subject.run(subject.model, "test"):
            labels.append(batch.labels.cpu())
            predicted = (
                chosen_experts_answers(subject, batch)
                if self.prediction == "expert"
                else batch.logits.argmax(-1)
            )
            predictions.append(predicted.cpu())
            for layer, routing in zip(layers, batch.routings, strict=True):
                layer.add(routing, len(batch.labels))
        label, predicted = torch.cat(labels), torch.cat(predictions)
        of_layers = [self.of_layer(layer, label, predicted) for layer in layers]
        yield from layers_and_mean(of_layers, "test")
        for index, layer in enumerate(layers):
            for array in layer.arrays(label, subject.num_classes):
                yield replace(array, layer=index)
        yield named_classes(subject.class_names)

    def at_start(self, subject: TrialSubject) -> Iterator[Metric]:
        """Yield H_s of each layer before the first step, as step 0; nothing if it is unknown."""
        try:
            model = subject.start() if self.start_images else None
        except UndefinedError:  # a derived trial without its first weights
            model = None
        if model is None:
            return
        layers = [LayerMasses(()) for _ in routers_of(model)]
        seen = 0
        for batch in subject.run(model, "test"):
            for layer, routing in zip(layers, batch.routings, strict=True):
                layer.add(routing, len(batch.labels))
            seen += len(batch.labels)
            if seen >= self.start_images:
                break
        for metric in layers_and_mean([layer.mean_entropies() for layer in layers], "test"):
            yield replace(metric, step=0)

    def of_layer(self, layer: LayerMasses, label: Tensor, predicted: Tensor) -> Iterator[Metric]:
        """Yield all numbers in `metrics` for one layer; label and predicted: (images,) long."""
        known = {"MI_label": label, "MI_prediction": predicted}
        yield from layer.mean_entropies()
        for of, masses in layer.of.items():
            yield Metric("left_out", masses.left_out, where={"of": of})
            if masses.left_out == 1:
                continue
            for kind in KINDS:
                where = {"of": of, "kind": kind}
                of_image = masses.of_kind(kind)
                yield Metric("H_u", float(entropy_bits(of_image.sum(0))), where=where)
                for name, classes in known.items():
                    for ending, value in self.information(of_image, classes).items():
                        yield Metric(f"{name}{ending}", value, where=where)
        yield from layer.kind_shares()

    def information(self, masses: Tensor, classes: Tensor) -> dict[str, float]:
        """Compute plain, corrected and normalised I(E;Y), by the ending of the metric's name.

        The bias is subtracted from both the normalised value and its bound, so that an oracle
        scores 1 at any number of images; the value is left out if the bound is 0.

        The tokens of an image share its class, so classes, (images,) long, are permuted over
        images; masses, (images, E), are each image's p summed over its tokens.
        """
        count = int(classes.max()) + 1
        generator = torch.Generator().manual_seed(self.seed)
        table = class_table(masses, classes, count)
        shuffled = [
            class_table(masses, classes[torch.randperm(len(classes), generator=generator)], count)
            for _ in range(self.permutations)
        ]
        plain = float(mutual_information_bits(table))
        bias = float(mutual_information_bits(torch.stack(shuffled)).mean())
        most = min(float(entropy_bits(table.sum(0))), float(entropy_bits(table.sum(1)))) - bias
        information = {"": plain, "_corrected": plain - bias}
        # If nothing varies there is nothing to know, and 0/0 is rounding error.
        return information | ({"_normalised": (plain - bias) / most} if most > 1e-9 else {})


class LayerMasses:
    """The distributions of one layer's tokens over its experts, added batch by batch.

    Attributes:
        of: by gates, and by combine weights.
        taken: by the experts that processed the token, equally weighted, if of several kinds.
        kinds: (E,), the kind of each expert; empty if there is only one.
        sizes: parameters of each expert, (E,); empty if all are alike.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.of = {of: ImageMasses() for of in OF}
        self.taken = ImageMasses()
        self.kinds = kinds
        self.sizes: tuple[int, ...] = ()

    def add(self, routing: Routing, images: int) -> None:
        """Add one batch of images."""
        self.of["gates"].add(routing.gates, images, routing.mask)
        self.of["combine"].add(routing.combine_weights(), images, routing.mask)
        if self.kinds:
            self.taken.add(routing.taken(), images, routing.mask)
        self.sizes = routing.expert_sizes

    def mean_entropies(self) -> Iterator[Metric]:
        """Yield H_s by gates and by combine weights, unless no token has a p."""
        for of, masses in self.of.items():
            if masses.left_out < 1:
                yield Metric("H_s", masses.mean_entropy, where={"of": of, "kind": "soft"})

    def kind_shares(self) -> Iterator[Metric]:
        """Yield each kind's share of the experts that processed tokens, if there are several."""
        if self.kinds and self.taken.left_out < 1:
            total = self.by_kind().sum(0)
            shares = (total / total.sum()).tolist()
            for name, share in zip(dict.fromkeys(self.kinds), shares, strict=True):
                yield Metric("kind_share", share, where={"kind_of_expert": name})

    def by_kind(self) -> Tensor:
        """Sum what an image's tokens took over the experts of each kind: (images, kinds).

        Kinds are in the order of their first expert.
        """
        names = list(dict.fromkeys(self.kinds))
        index = torch.tensor([names.index(kind) for kind in self.kinds])
        of_image = self.taken.of_kind("soft")
        return of_image.new_zeros(len(of_image), len(names)).index_add_(1, index, of_image)

    def arrays(self, label: Tensor, num_classes: int) -> Iterator[Array]:
        """Yield the tables by class, and the names and sizes that go with them."""
        for of, masses in self.of.items():
            for kind in KINDS:
                table = class_table(masses.of_kind(kind), label, num_classes).float()
                where = {"of": of, "kind": kind}
                yield Array("class_expert", table.numpy(), split="test", where=where)
        if self.sizes:
            yield Array("expert_sizes", np.array(self.sizes), split="test")
        if self.kinds:
            table = class_table(self.by_kind(), label, num_classes)
            shares = (table / table.sum(1, keepdim=True).clamp(min=1e-12)).float()
            yield Array("class_kind", shares.numpy(), split="test")
            yield Array("kind_names", np.array(list(dict.fromkeys(self.kinds)), dtype=np.str_))
