"""Checks of suites: what one yields for a tiny subject agrees with what it declares."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.check.cases import Setting
from bench.check.outcome import Failed, NotApplicable
from bench.check.reference import require
from bench.config import (
    ComputeConfig,
    DataConfig,
    ExpertsConfig,
    ModelConfig,
    RouterConfig,
    TrainConfig,
    TrialSpec,
)
from bench.data import Dataset, Split
from bench.measure import LayerOfTrial, TrainedTrial, storable
from bench.train import train_trial
from results.text import counted
from routers import ROUTERS
from suites import Array, Metric, Suite, build_suite

CPU = torch.device("cpu")
CLASSES, SIDE = 6, 8
ROUTER = "softmax_token_choice"
VIT = {"img_size": SIDE, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}


@dataclass(frozen=True)
class Subject(Setting):
    """A suite with its defaults."""

    @cached_property
    def suite(self) -> Suite[Any]:
        return build_suite(self.entry.name, **self.options)

    @cached_property
    def yielded(self) -> list[Metric | Array]:
        """Everything that it yields for one router, trained for 24 steps or in bare layers.

        Raises:
            RequestError: it yields something else, or something that it does not declare.
        """
        data, spec = tiny_data(), tiny_trial()
        with TemporaryDirectory() as folder:
            subject: Any = (
                LayerOfTrial(spec, data, CPU)
                if self.suite.on == "layer"
                else TrainedTrial(spec, data, train_trial(spec, data, CPU, Path(folder)), CPU)
            )
            if reason := self.suite.applies_to(subject):
                raise NotApplicable(f"a tiny subject gives it nothing to measure: {reason}")
            return [storable(self.suite, value) for value in self.suite.measure(subject)]


def runs(subject: Subject) -> str:
    """For a tiny subject it yields metrics and arrays, each with a name that it declares."""
    count = Counter(value.name for value in subject.yielded)
    require(bool(count), "it yields nothing")
    silent = [each.name for each in subject.suite.metrics if each.name not in count]
    said = ", ".join(f"{name} ({times})" if times > 1 else name for name, times in count.items())
    return f"yields {said}" + (f"; not for this subject: {', '.join(silent)}" if silent else "")


def finite(subject: Subject) -> str:
    """Every metric is a finite number."""
    metrics = [value for value in subject.yielded if isinstance(value, Metric)]
    for metric in metrics:
        require(math.isfinite(metric.value), f"{place(metric)} is {metric.value}")
    return counted(len(metrics), "metric")


def apart(subject: Subject) -> None:
    """No two results have the same name and place."""
    for result, times in Counter(map(place, subject.yielded)).items():
        require(times == 1, f"{result} is yielded {counted(times, 'time')}")


def headline(subject: Subject) -> str:
    """The main metric is a single number, for the end of training and for all layers together."""
    suite = subject.suite
    values = [
        value.value
        for value in subject.yielded
        if isinstance(value, Metric)
        and (value.name, value.layer, value.step) == (suite.main_metric, None, None)
        and suite.main_where.items() <= value.where.items()
    ]
    if len(values) != 1:
        where = f" with where = {suite.main_where}" if suite.main_where else ""
        raise Failed(
            f"{suite.main_metric!r} of no layer and no step{where} "
            f"is yielded {counted(len(values), 'time')}, not once"
        )
    return f"{suite.main_metric} = {values[0]:.4g}"


def place(result: Metric | Array) -> str:
    """Return the name of a result and where it applies, in words."""
    parts = {"layer": result.layer, "step": result.step, "split": result.split}
    labels = [f"{name} {value}" for name, value in parts.items() if value is not None]
    if result.where:
        labels.append(f"where {json.dumps(result.where, sort_keys=True)}")
    of = f" of {', '.join(labels)}" if labels else ""
    return f"{type(result).__name__} {result.name!r}{of}"


def tiny_trial() -> TrialSpec:
    """Return a trial that trains in a second."""
    return TrialSpec(
        router=RouterConfig(name=ROUTER, options=ROUTERS.get(ROUTER).validate({})),
        experts=ExpertsConfig(num_experts=4),
        model=ModelConfig(options=VIT),
        data=DataConfig(name="digits"),
        train=TrainConfig(epochs=4, batch_size=16, lr=5e-3, snapshots=2, evaluations=2),
        compute=ComputeConfig(match="steps"),
        seed=0,
    )


def tiny_data() -> Dataset:
    """Return noise whose brightness depends on the class, with a protected attribute."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 100, (count, 1, SIDE, SIDE), generator=generator)
        images += 25 * labels.view(-1, 1, 1, 1)
        return Split(images.to(torch.uint8), labels, torch.arange(count) // CLASSES % 2)

    return Dataset(
        name="tiny",
        classes=tuple("abcdef"),
        splits={"train": split(96), "val": split(48), "test": split(48)},
        mean=torch.tensor([0.44]),
        std=torch.tensor([0.2]),
        content_hash="0" * 64,
        licence="none",
        attributes=("plain", "marked"),
    )
