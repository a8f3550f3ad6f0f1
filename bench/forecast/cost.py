"""What one condition costs here: an errand, run in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.config import TrialSpec
from bench.datasets import Datasets
from bench.forecast.clock import Clock
from bench.forecast.suites import seconds_on_layer, seconds_on_trial, untrained_outcome
from bench.forecast.training import begin
from bench.plan import PlannedSuite
from bench.subject import LayerOfTrial, TrainedTrial
from bench.trial_model import trial_model


@dataclass(frozen=True)
class Errand:
    """What is to be measured.

    Attributes:
        spec: a trial, or that of a layer.
        suites: those that are planned for it.
        bare: whether it is a bare layer, which is not trained.
    """

    spec: TrialSpec
    suites: tuple[PlannedSuite, ...]
    bare: bool = False


@dataclass(frozen=True)
class Cost:
    """Of one trial or layer, in seconds.

    Attributes:
        training: of one training, 0 of a bare layer's.
        suites: of one measurement by each suite.
        ready: until its process can begin.
    """

    training: float
    suites: Mapping[str, float]
    ready: float = 0.0


def cost_of(errand: Errand, datasets: Datasets, device: torch.device) -> Cost:
    """Measure it in small; nothing is left of it.

    A trial that is derived from another starts from an untrained one.
    """
    spec, suites, clock = errand.spec, errand.suites, Clock(device)
    dataset = datasets.get(spec.data)
    if errand.bare:
        layer = LayerOfTrial(spec, dataset, device)
        return Cost(0.0, {suite.name: seconds_on_layer(suite, layer, clock) for suite in suites})
    origin = spec.parent
    parent = None if origin is None else trial_model(origin, datasets.get(origin.data))
    pace, model = begin(spec, dataset, device, parent, clock)
    with TemporaryDirectory() as folder:
        outcome = untrained_outcome(spec, model, Path(folder))
        measured = seconds_on_trial(
            suites,
            lambda data: TrainedTrial(spec, data, outcome, device),
            dataset,
            spec.train.batch_size,
            pace.image,
            clock,
        )
    return Cost(pace.whole(spec.train.evaluations, len(dataset.splits["val"])), measured)
