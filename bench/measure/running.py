"""A suite at work on a subject: what it yields is checked, and its errors are results."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import results
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
    """Return what a suite yielded, its number as a float.

    Raises:
        RequestError: it is no metric or array, its name is not declared, or it cannot be stored;
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
    """Measure a subject, made here, by a suite; an error of either becomes its result."""
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
