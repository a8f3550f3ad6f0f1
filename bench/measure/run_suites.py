"""One suite at work on one subject."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import results
from results.store.records import MeasurementStatus
from routers.errors import describe
from suites import Array, Metric, build_suite


@dataclass(frozen=True)
class SuiteResult:
    """The results of a suite, or the reason why it has none.

    Attributes:
        error: why it was skipped or failed, in one line.
        traceback: of the error that it failed with.
        seconds: that it took.
    """

    status: MeasurementStatus
    seconds: float
    error: str | None = None
    traceback: str | None = None
    metrics: tuple[results.Metric, ...] = ()
    arrays: tuple[results.Array, ...] = ()


def run_suite(name: str, options: Mapping[str, Any], subject: Callable[[], Any]) -> SuiteResult:
    """Measure a subject by a suite; an error of either becomes its result.

    Args:
        subject: makes what the suite measures.
    """
    start = time.perf_counter()
    try:
        suite, measured = build_suite(name, **options), subject()
        if reason := suite.applies_to(measured):
            return SuiteResult(MeasurementStatus.SKIPPED, time.perf_counter() - start, reason)
        measured_values = list(suite.measure(measured))
    except (Exception, SystemExit) as error:
        seconds, trace = time.perf_counter() - start, traceback.format_exc()
        return SuiteResult(MeasurementStatus.FAILED, seconds, describe(error), trace)
    return SuiteResult(
        MeasurementStatus.DONE,
        time.perf_counter() - start,
        metrics=tuple(
            results.Metric(**asdict(each)) for each in measured_values if isinstance(each, Metric)
        ),
        arrays=tuple(_array(each) for each in measured_values if isinstance(each, Array)),
    )


def _array(array: Array) -> results.Array:
    place = {name: getattr(array, name) for name in ("layer", "step", "split", "where")}
    return results.Array(array.name, array.values, **place)
