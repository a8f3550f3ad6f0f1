"""Running a suite: what it yields is checked, its errors are recorded, its transfer sets fit."""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import results
from bench.config import DataConfig
from bench.data import Dataset, load_dataset
from results.store.records import MeasurementStatus
from routers import RequestError, described
from routers.errors import describe, nearest
from suites import Array, Metric, Suite, build_suite


@dataclass(frozen=True)
class SuiteResult:
    """The results of a suite, or the reason why it was skipped or failed."""

    status: MeasurementStatus
    seconds: float
    error: str | None = None
    traceback: str | None = None
    metrics: tuple[results.Metric, ...] = ()
    arrays: tuple[results.Array, ...] = ()


def storable(suite: Suite[Any], value: Any) -> Metric | Array:
    """Return what a suite yielded, with a metric's value as a float.

    Raises:
        RequestError: it is not a metric or array, its name is not declared, or it cannot be stored;
            the message names the suite.
    """
    own = f"suite {suite.name!r} yields"
    if not isinstance(value, Metric | Array):
        raise RequestError(f"{own} {described(value)}, not a Metric or an Array")
    names = [definition.name for definition in suite.metrics]
    if value.name not in names:
        raise RequestError(
            f"{own} {value.name!r}, which its `metrics` do not declare{nearest(value.name, names)}"
        )
    try:
        json.dumps(value.where, sort_keys=True, allow_nan=False)  # as the database writes it
        if isinstance(value, Array) and np.asarray(value.values).dtype.hasobject:
            raise TypeError("its values are objects, not numbers or text")
        return replace(value, value=float(value.value)) if isinstance(value, Metric) else value
    except (TypeError, ValueError) as error:
        raise RequestError(f"{own} {value.name!r}, which cannot be stored: {error}") from None


def run_suite(name: str, options: Mapping[str, Any], subject: Callable[[], Any]) -> SuiteResult:
    """Build a subject and measure it with a suite; an error in either becomes the result."""
    start = time.perf_counter()
    try:
        suite, measured = build_suite(name, **options), subject()
        if reason := suite.applies_to(measured):
            return SuiteResult(MeasurementStatus.SKIPPED, time.perf_counter() - start, reason)
        values = [storable(suite, value) for value in suite.measure(measured)]
    except (Exception, SystemExit) as error:
        seconds, trace = time.perf_counter() - start, traceback.format_exc()
        return SuiteResult(MeasurementStatus.FAILED, seconds, describe(error), trace)
    return SuiteResult(
        MeasurementStatus.DONE,
        time.perf_counter() - start,
        metrics=tuple(results.Metric(**vars(each)) for each in values if isinstance(each, Metric)),
        arrays=tuple(results.Array(**vars(each)) for each in values if isinstance(each, Array)),
    )


@cache
def _loaded(config: DataConfig) -> Dataset:
    return load_dataset(config)


def transfer_set(name: str, dataset: Dataset) -> Dataset:
    """Load another data set, with images as large as those of the model's data set.

    Raises:
        RequestError: there is no such data set, or its images have a different number of channels.
    """
    channels, height, _ = dataset.image_shape
    transfer = _loaded(DataConfig(name=name, image_size=height))
    if (own := transfer.image_shape[0]) != channels:
        raise RequestError(
            f"{name!r} has images of {own} channel{'s' * (own != 1)}, and the model was trained "
            f"on {channels}; transfer to a data set of {channels}, or set data.channels={own}"
        )
    return transfer


def refuse_transfer(suite: Suite[Any], dataset: Dataset) -> None:
    """Refuse transfer sets that a suite cannot use with a model trained on this data set.

    Raises:
        RequestError: as `transfer_set`, or a class has too few training images; names the suite.
    """
    for name, needed in suite.transfers().items():
        try:
            labels = transfer_set(name, dataset).splits["train"].labels
        except RequestError as error:
            raise RequestError(f"suite {suite.name}: {error}") from None
        images = labels.bincount().tolist()
        if (fewest := min(images)) < needed:
            raise RequestError(
                f"suite {suite.name}: class {images.index(fewest)} of {name!r} has {fewest} "
                f"training images, and {needed} of each are needed; ask for {fewest} or fewer"
            )
