"""How the subgroups of a split are answered: the images of a class with a value of the attribute.

All tables are (classes, values) double.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from routers.errors import BenchError
from suites.support.subject import Observed, TrialSubject

Factors = tuple[Tensor, ...]
"""(E,) float for each MoE layer, times its experts' combine weights; none changes nothing."""


class Subgroups:
    """Images, right answers and cross-entropies by subgroup, batch by batch.

    Attributes:
        images: their number.
        right: those that are answered rightly.
        loss: the sum of their cross-entropies, in nats.
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
        """Share of each subgroup that is answered rightly; NaN where it has no images."""
        return self.right / self.images

    @property
    def top1(self) -> float:
        """Share of all images that are answered rightly."""
        return float(self.right.sum() / self.images.sum())

    @property
    def worst_loss(self) -> float:
        """The highest mean cross-entropy of a subgroup that has images."""
        return float((self.loss / self.images)[self.images > 0].max())

    @property
    def opportunity_gap(self) -> float:
        """The largest difference of true positive rates between two values of the attribute.

        Of class 1 where there are two classes, else of any class.
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
            table.add(_answers(subject, batch, factors), batch.labels, values)
        start += len(batch.labels)
    return tables


def _answers(subject: TrialSubject, batch: Observed, factors: Factors) -> Tensor:
    changed = {index: layer for index, layer in enumerate(factors) if (layer != 1).any()}
    if not changed:
        return batch.logits
    return subject.answers(subject.model, batch.images, changed)
