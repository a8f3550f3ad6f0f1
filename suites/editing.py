"""Editing: correct a biased classifier by changing the weights of its experts (2402.12550).

The data has a protected attribute; a subgroup is the images of one class with one of its values.
An edit multiplies the combine weights of one expert, for every image and token: nothing is rerouted
and nothing is trained. Edits are chosen on the validation split alone, step by step:

    1.  Each of the `max_experts` most used experts of each layer is tried with each of `factors`.
        The `shortlist` best experts stay.
    2.  The best edit is kept. From then on each expert of the shortlist is tried with each of
        `factors` on top of the edits kept; factors of one expert multiply.
    3.  The search ends after `max_edits` steps, or when no edit gains more than 0.001 nat.

The best edit most lowers the highest mean cross-entropy of any subgroup; ties go to the first in
the order of layers, experts, factors. Accuracy itself cannot tell edits apart: a subgroup that a
bias harms has few validation images (ten images allow only eleven accuracies), and edits chosen by
accuracy hold up less well in testing.

In the paper an edit adds λ times the mean gate of the harmed subgroup to the gates. Here it
multiplies: a factor means the same in a dense mixture, under a choice of a few experts per token
and with mixed slots; and it needs no attribute in testing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from routers.errors import BenchError
from routers.hyper import hyper
from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import TrialSubject, why_not_routed

GAIN = 1e-3
"""In nats: a smaller gain counts as noise."""

Factors = tuple[Tensor, ...]
"""(E,) float factors on the combine weights of each MoE layer's experts; empty for no change."""


@register_suite("editing", family="fairness", source="arXiv 2402.12550")
class Editing(Suite[TrialSubject]):
    """Fairness before and after re-weighting the experts that carry a bias, and what that costs.

    Experts and factors are chosen on the validation split; all numbers are from the test split. A
    dense model only has a "before". Known limits: a bias carried by attention, or anything but
    experts, stays; and a bias that all experts share cannot be separated from what they know.
    """

    on = "trial"
    main_metric = "subgroup_accuracy_min"
    main_where = {"edit": "after"}  # noqa: RUF012
    metrics = (
        MetricDef(
            "subgroup_accuracy_min",
            "share",
            "higher",
            "Max-min fairness: accuracy of the worst subgroup (a class and an attribute value).",
        ),
        MetricDef(
            "subgroup_accuracy_mean", "share", "higher", "Mean of the subgroups' accuracies."
        ),
        MetricDef(
            "bias_std",
            "share",
            "lower",
            "Population standard deviation of accuracy over the subgroups.",
        ),
        MetricDef(
            "opportunity_gap",
            "share",
            "lower",
            "Equality of opportunity: difference in the true positive rate of class 1 between two "
            "values of the attribute; with more classes or values the largest difference.",
        ),
        MetricDef("editing_top1", "share", "higher", "Top-1 accuracy: what the edits cost."),
        MetricDef("edited_experts", "experts", None, "Experts whose weight was changed."),
        MetricDef("editing_passes", "passes", None, "Validation passes to find the edits."),
        MetricDef("subgroup_accuracy", "share", "higher", "Accuracies: (classes, values)."),
        MetricDef("expert_factors", "", None, "Factors on the combine weights: (layers, E)."),
        MetricDef("subgroup_names", "", None, "Class and value of each: (classes, values)."),
    )

    factors: tuple[float, ...] = hyper((0.0, 0.5, 2.0), "Factors tried on each expert's weights.")
    max_edits: int = hyper(8, "Maximum number of steps.", ge=1)
    max_experts: int = hyper(16, "Experts tried in each layer, the most used first.", ge=1)
    shortlist: int = hyper(12, "Experts tried again after the first step.", ge=1)

    def applies_to(self, subject: TrialSubject) -> str | None:
        return None if subject.attribute_names else "the data set has no protected attribute"

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        (before,) = subgroups_of(subject, "test", [()])
        yield from fairness(before, "before")
        if why_not_routed(subject.model) is None:
            factors, passes = self.search(subject)
            (after,) = subgroups_of(subject, "test", [factors])
            yield from fairness(after, "after")
            yield Metric("edited_experts", float(sum((layer != 1).sum() for layer in factors)))
            yield Metric("editing_passes", float(passes))
            for index, layer in enumerate(factors):
                yield Array("expert_factors", layer.numpy(), layer=index)
        values = subject.attribute_names
        names = [[f"{label}, {value}" for value in values] for label in subject.class_names]
        yield Array("subgroup_names", np.array(names, dtype=np.str_))

    def search(self, subject: TrialSubject) -> tuple[Factors, int]:
        """Search for edits on the validation split, as described at the top of this file.

        Returns:
            The edits, and the number of passes over the split that it took to find them.
        """
        usage: list[Tensor] = []
        for batch in subject.run(subject.model, "val"):
            weights = [r.combine_weights().abs().double().sum((0, 1)).cpu() for r in batch.routings]
            usage = [a + b for a, b in zip(usage, weights, strict=True)] if usage else weights
        kept: Factors = tuple(torch.ones(len(layer)) for layer in usage)
        experts = [
            (index, expert)
            for index, layer in enumerate(usage)
            for expert in layer.argsort(descending=True, stable=True)[: self.max_experts].tolist()
        ]
        passes = 1
        lowest = subgroups_of(subject, "val", [kept])[0].worst_loss
        for _ in range(self.max_edits):
            edits = [
                _multiplied(kept, layer, expert, factor)
                for layer, expert in experts
                for factor in self.factors
            ]
            losses = [edited.worst_loss for edited in subgroups_of(subject, "val", edits)]
            passes += len(edits)
            order = sorted(range(len(edits)), key=losses.__getitem__)
            if losses[order[0]] > lowest - GAIN:
                break
            lowest, kept = losses[order[0]], edits[order[0]]
            ranked = dict.fromkeys(experts[place // len(self.factors)] for place in order)
            experts = list(ranked)[: self.shortlist]
        return kept, passes


def _multiplied(factors: Factors, layer: int, expert: int, factor: float) -> Factors:
    changed = factors[layer].clone()
    changed[expert] *= factor
    return (*factors[:layer], changed, *factors[layer + 1 :])


def fairness(subgroups: Subgroups, edit: str) -> Iterator[Metric | Array]:
    """Measure fairness on the test split, before or after editing."""
    accuracy, where = subgroups.accuracy, {"edit": edit}
    for name, value in (
        ("subgroup_accuracy_min", float(accuracy.min())),
        ("subgroup_accuracy_mean", float(accuracy.mean())),
        ("bias_std", float(accuracy.std(correction=0))),
        ("opportunity_gap", subgroups.opportunity_gap),
        ("editing_top1", subgroups.top1),
    ):
        yield Metric(name, value, split="test", where=where)
    yield Array("subgroup_accuracy", accuracy.numpy(), split="test", where=where)


class Subgroups:
    """Images, right answers and cross-entropies by subgroup, added batch by batch.

    Attributes:
        images, right: (classes, values) double, all images and those answered correctly.
        loss: (classes, values) double, the sum of their cross-entropies, in nats.
    """

    def __init__(self, classes: int, values: int) -> None:
        self.images, self.right, self.loss = torch.zeros(3, classes, values, dtype=torch.double)

    def add(self, logits: Tensor, labels: Tensor, attribute: Tensor) -> None:
        """Add n images: logits (n, classes); labels, attribute: (n,) long."""
        logits, labels, place = logits.double().cpu(), labels.cpu(), (labels.cpu(), attribute)
        right = (logits.argmax(-1) == labels).double()
        for table, values in (
            (self.images, torch.ones_like(right)),
            (self.right, right),
            (self.loss, cross_entropy(logits, labels, reduction="none")),
        ):
            table.index_put_(place, values, accumulate=True)

    @property
    def accuracy(self) -> Tensor:
        """The share of each subgroup answered correctly; NaN if it has no images."""
        return self.right / self.images

    @property
    def top1(self) -> float:
        """The share of all images answered correctly."""
        return float(self.right.sum() / self.images.sum())

    @property
    def worst_loss(self) -> float:
        """The highest mean cross-entropy of a subgroup that has images."""
        return float((self.loss / self.images)[self.images > 0].max())

    @property
    def opportunity_gap(self) -> float:
        """The largest difference of true positive rates between two values of the attribute.

        The rates are those of class 1 if there are two classes, else of any class.
        """
        rates = self.accuracy[1:] if len(self.accuracy) == 2 else self.accuracy
        return float((rates.amax(1) - rates.amin(1)).max())


def subgroups_of(subject: TrialSubject, split: str, edits: Sequence[Factors]) -> list[Subgroups]:
    """Return the subgroups of a split under each edit, in one pass over its images.

    Raises:
        BenchError: the data has no protected attribute.
    """
    attribute = subject.attribute(split)
    if attribute is None:
        raise BenchError(f"the {split} split has no protected attribute")
    shape = subject.num_classes, len(subject.attribute_names)
    tables = [Subgroups(*shape) for _ in edits]
    start = 0
    for batch in subject.run(subject.model, split):
        values = attribute[start : start + len(batch.labels)]
        for table, factors in zip(tables, edits, strict=True):
            changed = {index: layer for index, layer in enumerate(factors) if (layer != 1).any()}
            logits = batch.logits
            if changed:
                logits = subject.answers(subject.model, batch.images, changed)
            table.add(logits, batch.labels, values)
        start += len(batch.labels)
    return tables
