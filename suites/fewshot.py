"""Few-shot transfer: how well frozen features tell the classes of another data set apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from pydantic import PositiveInt
from scipy import stats
from torch import Tensor

from routers.hyper import hyper
from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import TrialSubject

STRENGTHS = 2.0 ** np.arange(-10, 21, 2)
"""Ridge strengths that leave-one-out chooses from."""


@register_suite("fewshot", family="accuracy", source="arXiv 2401.15969, 2106.05974")
class FewShot(Suite[TrialSubject]):
    """Accuracy on other data sets from a few images per class, by ridge regression on features.

    The trained model is frozen; its pooled features, before the classifier, are computed once for
    each transfer set. A draw takes `shots` training images of each class, standardises their
    features, and fits one ridge regression to the one-hot classes in closed form; test images get
    the class of the largest output. The ridge strength is chosen by leave-one-out over the shots,
    never on test images. With one shot per class none can be left out, and the strength is the
    width of the features.
    """

    on = "trial"
    main_metric = "transfer_top1"
    metrics = (
        MetricDef(
            "transfer_top1",
            "share",
            "higher",
            "Few-shot top-1 at the largest number of shots, mean over transfer sets and draws.",
        ),
        MetricDef(
            "fewshot_top1", "share", "higher", "Few-shot top-1 on a transfer set, mean over draws."
        ),
        MetricDef(
            "fewshot_half_width",
            "share",
            "lower",
            "Half the 95 % t interval of `fewshot_top1` over the draws of the shots.",
        ),
    )

    data: list[str] = hyper([], "Data sets to transfer to, by the names that `data.name` takes.")
    shots: list[PositiveInt] = hyper([1, 5, 10], "Training images of each class.", min_length=1)
    draws: int = hyper(5, "Draws of the shots, with fixed seeds; at least 5.", ge=5)

    def transfers(self) -> dict[str, int]:
        return dict.fromkeys(self.data, max(self.shots))

    def applies_to(self, subject: TrialSubject) -> str | None:
        if not self.data:
            return "no transfer set is named: set suites.fewshot.data, such as [digits]"
        return None if subject.has_features else "the model has no pooled features"

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        largest = []
        for data in self.data:
            train, test = (LabelledFeatures(*subject.features(data, s)) for s in ("train", "test"))
            for shots in sorted(self.shots):  # the largest number is the last
                tops = [
                    ridge_accuracy(train.drawn(shots, seed), test, shots)
                    for seed in range(self.draws)
                ]
                where = {"data": data, "shots": shots}
                yield Metric("fewshot_top1", fmean(tops), split="test", where=where)
                width = float(stats.t.ppf(0.975, len(tops) - 1) * stats.sem(tops))
                yield Metric("fewshot_half_width", width, split="test", where=where)
            largest.append(fmean(tops))
        yield Metric("transfer_top1", fmean(largest), split="test")


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features with their classes.

    Attributes:
        features: (n, d) float.
        labels: (n,) long.
    """

    features: Tensor
    labels: Tensor

    def drawn(self, shots: int, seed: int) -> LabelledFeatures:
        """Draw that many images of each class, without replacement, in the order of the classes."""
        generator = np.random.default_rng(seed)
        labels = self.labels.numpy()
        rows = [
            generator.choice(np.flatnonzero(labels == label), shots, replace=False)
            for label in np.unique(labels)
        ]
        index = torch.from_numpy(np.concatenate(rows))
        return LabelledFeatures(self.features[index], self.labels[index])


def ridge_accuracy(train: LabelledFeatures, test: LabelledFeatures, shots: int) -> float:
    """Fit a ridge regression to one-hot classes, and return its top-1 accuracy.

    Args:
        train: the shots.
        test: the images to classify, used for nothing else.
        shots: images of each class; with 1 the strength is d, otherwise leave-one-out chooses it.
    """
    x = train.features.double()
    centre, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-12)
    x, inputs = ((each.double() - centre) / scale for each in (x, test.features))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    targets = torch.nn.functional.one_hot(train.labels, classes).double()
    offset = targets.mean(0)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    projected = u.T @ (targets - offset)
    strength = float(x.shape[1]) if shots == 1 else leave_one_out(u, s, projected, targets - offset)
    weights = v.T @ ((s / (s**2 + strength)).unsqueeze(1) * projected)
    answers = (inputs @ weights + offset).argmax(1)
    return float((answers == test.labels).double().mean())


def leave_one_out(u: Tensor, s: Tensor, projected: Tensor, centred: Tensor) -> float:
    """Return the strength with the smallest squared error on left-out rows, in closed form.

    A row's left-out residual is its residual over 1 − h, with h the diagonal of the hat matrix,
    including 1/n for the intercept.

    Args:
        u: (n, r), left singular vectors of the standardised features.
        s: (r,), their singular values.
        projected: (r, classes), uᵀ times the centred targets.
        centred: (n, classes), the targets less their mean.
    """
    errors = []
    for strength in STRENGTHS:
        kept = s**2 / (s**2 + strength)
        residual = centred - u @ (kept.unsqueeze(1) * projected)
        leverage = (u**2 @ kept) + 1 / len(u)
        left_out = residual / (1 - leverage).clamp(min=1e-12).unsqueeze(1)
        errors.append(float(left_out.square().mean()))
    return float(STRENGTHS[int(np.argmin(errors))])
