"""The base class of suites, which measure finished trials or bare layers and never train.

A suite is one file in `suites`, or in a plugin; importing it registers it.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from routers.errors import RequestError, alike, nearest
from routers.hyper import Configurable
from routers.registry import Registry
from routers.router import described

SUITES = Registry("suite")
register_suite = SUITES.register

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class MetricDef:
    """The definition of a metric or array.

    Attributes:
        unit: unit of the values; "" for a pure number.
        better: which direction is better; None if neither is.
        meaning: one sentence that a table can show as its note.
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
        split: "train", "val" or "test"; None if no data is involved.
        where: all other conditions, as plain JSON data.
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


DECLARATIONS = {
    "on": 'write on = "trial" or on = "layer"',
    "metrics": 'write metrics = (MetricDef("NAME", "UNIT", "higher", "What it means."),)',
    "main_metric": 'write main_metric = "NAME", the name of one of its metrics',
    "measure": "write def measure(self, subject), which yields each result",
}
"""The declarations of a suite, and how to write each of them."""
SUBJECTS = ("trial", "layer")
BETTER = ("higher", "lower")


class Suite(Configurable, ABC, Generic[Subject]):
    """Base class of all suites; annotated attributes are a suite's options.

    Attributes:
        on: "trial" measures the result of a training run, a `TrialSubject`; "layer" needs no
            training and measures a `LayerSubject`, with the machine to itself.
        main_metric: the one that ranks routers in a digest, as the mean over layers, at the end.
        main_where: the `where` of that metric, if the name has several.
        metrics: every name that `measure` yields.
    """

    name: ClassVar[str]
    on: ClassVar[Literal["trial", "layer"]]
    main_metric: ClassVar[str]
    main_where: ClassVar[dict[str, Any]] = {}
    metrics: ClassVar[tuple[MetricDef, ...]]

    def __init__(self, **options: Any) -> None:
        self.set_hyper(options)

    @classmethod
    def refuse_bad_class(cls, owner: str) -> None:
        """Refuse a suite whose declarations are missing or wrong, when it is registered."""
        for name, example in DECLARATIONS.items():
            value = getattr(cls, name, None)
            if value is None or getattr(value, "__isabstractmethod__", False):
                close = alike(name, vars(cls).keys() - DECLARATIONS.keys())
                end = f"it defines `{close[0]}`: did you mean `{name}`?" if close else example
                raise RequestError(f"{owner} has no `{name}`; {end}")
        if cls.on not in SUBJECTS:
            raise RequestError(f"{owner} has on = {cls.on!r}{nearest(str(cls.on), SUBJECTS)}")
        if not isinstance(cls.metrics, tuple | list):
            raise RequestError(
                f"{owner}: metrics is {described(cls.metrics)}, not a tuple of MetricDef; "
                f"{DECLARATIONS['metrics']}"
            )
        names: list[str] = []
        for definition in cls.metrics:
            if fault := _fault_of(definition, names):
                raise RequestError(f"{owner}: {fault}")
            names.append(definition.name)
        if cls.main_metric not in names:
            known = nearest(str(cls.main_metric), names)
            raise RequestError(f"{owner} has main_metric = {cls.main_metric!r}{known}")

    def transfers(self) -> dict[str, int]:
        """Return the data sets that it measures on besides the trial's own.

        They are given by name, with the training images needed per class. Such a data set is
        loaded before anything is trained, and refused if it does not fit.
        """
        return {}

    def applies_to(self, subject: Subject) -> str | None:
        """Return in a few words why the suite cannot measure a subject, or None if it can."""
        return None

    @abstractmethod
    def measure(self, subject: Subject) -> Iterator[Metric | Array]:
        """Measure, and yield each result as soon as it is known."""


def _fault_of(definition: Any, before: Sequence[str]) -> str | None:
    """Return what is wrong with a metric's definition, if anything, after those named `before`."""
    if not isinstance(definition, MetricDef):
        return f"metrics has {described(definition)}, not a MetricDef"
    for attribute in ("name", "unit", "meaning"):
        if not isinstance(text := getattr(definition, attribute), str):
            return f"a MetricDef has {attribute} = {text!r}, which is no text"
    if definition.name in before:
        return f"metrics declares {definition.name!r} twice"
    if definition.better is not None and definition.better not in BETTER:
        known = nearest(str(definition.better), BETTER)
        return f"metric {definition.name!r} has better = {definition.better!r}{known}"
    return None


def build_suite(name: str, **options: Any) -> Suite[Any]:
    """Build a registered suite by name.

    Raises:
        RequestError: there is no such suite, or an option is unknown or invalid.
    """
    suite: Suite[Any] = SUITES.get(name).target(**options)
    return suite


def layers_and_mean(
    layers: Sequence[Iterable[Metric]], split: str | None = None
) -> Iterator[Metric]:
    """Yield each layer's metrics with the layer's number, then each metric's mean over the layers.

    Args:
        layers: the metrics of each MoE layer, in network order.
        split: the split that they were measured on; None keeps the metrics' own.
    """
    same: dict[tuple[Any, ...], list[Metric]] = defaultdict(list)
    for index, metrics in enumerate(layers):
        for metric in metrics:
            metric = replace(metric, layer=index, split=split or metric.split)
            yield metric
            same[metric.name, *sorted(metric.where.items())].append(metric)
    for each in same.values():
        yield replace(each[0], layer=None, value=fmean(metric.value for metric in each))
