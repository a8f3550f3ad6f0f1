"""The base of suites: measurements of finished trials or of bare layers, which never train.

A suite is one file in `suites`, or in a plugin; importing it registers it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from routers.hyper import Configurable
from routers.registry import Registry

SUITES = Registry("suite")
register_suite = SUITES.register

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class MetricDef:
    """The definition of a metric or array.

    Attributes:
        unit: unit of the values; "" for a pure number.
        better: which direction is better; None where neither is.
        meaning: one sentence that a table can carry as its note.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


@dataclass(frozen=True)
class Metric:
    """A measured number, and where it applies.

    Attributes:
        name: one of the suite's `metrics`.
        layer: MoE layer in network order, from 0; None for the model or the mean over layers.
        step: training step of the snapshot measured; None for the end of training.
        split: "train", "val" or "test"; None where no data is involved.
        where: the rest, as plain JSON data.
    """

    name: str
    value: float
    layer: int | None = None
    step: int | None = None
    split: str | None = None
    where: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Array:
    """A small array kept whole; the other attributes as in `Metric`."""

    name: str
    values: np.ndarray
    layer: int | None = None
    step: int | None = None
    split: str | None = None
    where: dict[str, Any] = field(default_factory=dict)


CLASS_NAMES = MetricDef("class_names", "", None, "Names of the classes, by label.")


def named_classes(names: Sequence[str]) -> Array:
    """Return class names as an array, (classes,), for suites whose arrays have such an axis."""
    return Array(CLASS_NAMES.name, np.array(names, dtype=np.str_))


class Suite(Configurable, ABC, Generic[Subject]):
    """The base of all suites; annotated attributes are a suite's options.

    Attributes:
        on: "trial" measures what a training left, a `TrialSubject`; "layer" needs no training
            and measures a `LayerSubject`, with the machine to itself.
        main_metric: the one that ranks routers in a digest; of the mean over layers, at the end.
        main_where: the `where` of that metric, where the name has several.
        metrics: every name that `measure` yields.
    """

    name: ClassVar[str]
    on: ClassVar[Literal["trial", "layer"]]
    main_metric: ClassVar[str]
    main_where: ClassVar[dict[str, Any]] = {}
    metrics: ClassVar[tuple[MetricDef, ...]]

    def __init__(self, **options: Any) -> None:
        self.set_hyper(options)

    def transfers(self) -> dict[str, int]:
        """Return the data sets that it measures on besides the trial's own.

        By name, each with the training images that it needs of every class. Such a data set is
        loaded before anything is trained, and refused where it does not fit.
        """
        return {}

    def applies_to(self, subject: Subject) -> str | None:
        """Say in a few words why the suite cannot measure a subject; None where it can."""
        return None

    @abstractmethod
    def measure(self, subject: Subject) -> Iterator[Metric | Array]:
        """Measure, and yield each result when it is known."""


def build_suite(name: str, **options: Any) -> Suite[Any]:
    """Build a registered suite by name.

    Raises:
        RequestError: no such suite, or an option that it does not have or refuses.
    """
    suite: Suite[Any] = SUITES.get(name).target(**options)
    return suite


def layers_and_mean(
    layers: Sequence[Iterable[Metric]], split: str | None = None
) -> Iterator[Metric]:
    """Return each layer's metrics with the layer's number, then each one's mean over the layers.

    Args:
        layers: the metrics of each MoE layer, in network order.
        split: that they were measured on; None leaves the metrics' own.
    """
    same: dict[tuple[Any, ...], list[Metric]] = defaultdict(list)
    for index, metrics in enumerate(layers):
        for metric in metrics:
            metric = replace(metric, layer=index, split=split or metric.split)
            yield metric
            same[metric.name, *sorted(metric.where.items())].append(metric)
    for alike in same.values():
        yield replace(alike[0], layer=None, value=fmean(metric.value for metric in alike))
