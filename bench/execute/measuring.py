"""Suites at work on one subject: a row for each, whether it measured, was skipped or failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import results
from bench.execute.events import Measured, Measuring, Task
from bench.execute.training import describe
from bench.execute.workplace import JobContext
from bench.plan import PlannedSuite
from results.records import MeasurementStatus
from suites import Array, Metric, build_suite


def measure(
    suites: Sequence[PlannedSuite],
    subject: Callable[[], Any],
    context: JobContext,
    task: Task,
    *,
    attempt_id: int | None = None,
    layer_id: int | None = None,
) -> None:
    """Put a subject through suites; one that fails costs its own measurement alone.

    Where the job is asked to stop, the suites that are left are not begun.

    Args:
        subject: makes what they measure, when the first of them asks.
    """
    subject = cache(subject)
    for suite in suites:
        if context.stop():
            return
        context.emit(Measuring(task, suite.name))
        start = time.perf_counter()
        status = MeasurementStatus.DONE
        error: str | None = None
        trace: str | None = None
        found: list[Metric | Array] = []
        try:
            error, found = _results(suite, subject())
            status = MeasurementStatus.SKIPPED if error else MeasurementStatus.DONE
        except (Exception, SystemExit) as raised:
            status, error = MeasurementStatus.FAILED, describe(raised)
            trace = traceback.format_exc()
        seconds = time.perf_counter() - start
        context.store.record_measurement(
            suite.name,
            suite.options,
            suite.source_hash,
            context.run.machine_id,
            context.run.code_id,
            attempt_id=attempt_id,
            layer_id=layer_id,
            status=status,
            error=error,
            traceback=trace,
            seconds=seconds,
            metrics=[results.Metric(**asdict(item)) for item in found if isinstance(item, Metric)],
            arrays=[_array(item) for item in found if isinstance(item, Array)],
        )
        context.emit(Measured(task, suite.name, status, seconds, error))


def _results(suite: PlannedSuite, subject: Any) -> tuple[str | None, list[Metric | Array]]:
    """Why the suite does not apply, or None and what it found."""
    built = build_suite(suite.name, **suite.options)
    reason = built.applies_to(subject)
    return reason, [] if reason else list(built.measure(subject))


def _array(array: Array) -> results.Array:
    place = {name: getattr(array, name) for name in ("layer", "step", "split", "where")}
    return results.Array(array.name, array.values, **place)
