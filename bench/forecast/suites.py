"""How long suites take: on a part of the images, or of the repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from torch import nn

from bench.checkpoint import save_weights
from bench.config import Options, TrialSpec
from bench.data import Dataset
from bench.forecast.clock import Clock
from bench.forecast.part import part_of
from bench.outcome import Outcome, SavedSnapshot
from bench.plan import PlannedSuite
from bench.subject import LayerOfTrial, TrainedTrial
from suites import Array, Metric, build_suite

PASS = 0.5
"""Seconds for one pass over the test split, at most."""
FIRST = 8
"""What is measured first is so many times less."""
LIMIT = 5.0
"""Seconds of one suite on one trial, about."""
REPEATS = 0.5
"""Seconds of repeats for each comparison, where a suite takes them by the second."""


def untrained_outcome(spec: TrialSpec, model: nn.Module, folder: Path) -> Outcome:
    """What a training leaves, its snapshots all of this model."""
    sha256 = save_weights(model, folder / "weights.safetensors")
    saved = SavedSnapshot(step=0, flops=0, seconds=0, file="weights.safetensors", sha256=sha256)
    return Outcome(
        status="done",
        error=None,
        steps=0,
        planned_steps=0,
        flops=0,
        flops_budget=0,
        budget=0,
        budget_error=0,
        within_tolerance=True,
        uncounted=[],
        seconds=0,
        history=[],
        snapshots=[saved] * max(spec.train.snapshots, 1),
        folder=folder,
    )


def seconds_on_trial(
    suites: Sequence[PlannedSuite],
    subject: Callable[[Dataset], TrainedTrial],
    dataset: Dataset,
    batch_size: int,
    image: float,
    clock: Clock,
) -> dict[str, float]:
    """Seconds of each suite on a trial: on the line through what two parts of the images take.

    Args:
        subject: the trial's, on some data.
        dataset: the trial's.
        batch_size: the trial's.
        image: seconds to evaluate one image.
    """
    largest = min(1.0, PASS / (image * len(dataset.splits["test"])))

    def measure(suite: PlannedSuite, share: float) -> tuple[float, int]:
        part = part_of(dataset, share, batch_size)
        return _measure(suite, suite.options, subject(part), clock)[0], _evaluated(part)

    def whole(suite: PlannedSuite) -> float:
        seconds, images = measure(suite, largest / FIRST)
        longer, more = measure(suite, largest * min(1.0, max(2.0, LIMIT / seconds) / FIRST))
        slope = max(0.0, longer - seconds) / max(1, more - images)
        return longer + slope * (_evaluated(dataset) - more)

    return {suite.name: whole(suite) for suite in suites}


def seconds_on_layer(suite: PlannedSuite, subject: LayerOfTrial, clock: Clock) -> float:
    """Seconds of a suite on a bare layer.

    One that repeats a comparison for `seconds`, and tells the number of `…_repeats`, does so for
    less; whether the machine is quiet is of no matter here.
    """
    options, asked = dict(suite.options), suite.options.get("seconds", 0)
    less = {"seconds": min(asked, REPEATS), "max_load": None}
    options |= {name: value for name, value in less.items() if name in options}
    seconds, found = _measure(suite, options, subject, clock)
    comparisons = sum(result.name.endswith("_repeats") for result in found)
    return seconds + comparisons * (asked - options.get("seconds", 0))


def _measure(
    suite: PlannedSuite, options: Options, subject: TrainedTrial | LayerOfTrial, clock: Clock
) -> tuple[float, list[Metric | Array]]:
    """Seconds, and what was found until an error; a suite that fails takes so long in a run too."""
    found: list[Metric | Array] = []
    began = clock.now()
    with suppress(Exception):
        built = build_suite(suite.name, **options)
        if built.applies_to(subject) is None:
            found.extend(built.measure(subject))
    return clock.now() - began, found


def _evaluated(dataset: Dataset) -> int:
    return sum(len(split) for name, split in dataset.splits.items() if name != "train")
