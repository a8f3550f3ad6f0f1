"""The self-test: suites measure routings whose answers are known."""

from __future__ import annotations

from routers.errors import BenchError
from suites.base import Metric, build_suite
from suites.known import KNOWN, Answer, Known, KnownSubject

TOLERANCE = 1e-6


def self_test() -> int:
    """Put the known-answer routings through the suites, by the code that serves runs.

    Returns:
        The number of answers that were checked.

    Raises:
        BenchError: a suite gives another answer; names the metric, what was expected and got.
    """
    return sum(_check(known) for known in KNOWN)


def _check(known: Known) -> int:
    subject = KnownSubject(known)
    checked = 0
    for suite in sorted({answer.suite for answer in known.answers}):
        results = list(build_suite(suite).measure(subject))
        metrics = [result for result in results if isinstance(result, Metric)]
        for answer in known.answers:
            if answer.suite == suite:
                _compare(known, answer, metrics)
                checked += 1
    return checked


def _compare(known: Known, answer: Answer, metrics: list[Metric]) -> None:
    same = [m for m in metrics if (m.name, m.where) == (answer.metric, answer.where)]
    where = "".join(f", {key} {value}" for key, value in answer.where.items())
    about = f"self-test: of the {known.name} routing, suite {answer.suite!r}"
    if {metric.layer for metric in same} != {0, 1, None}:
        raise BenchError(
            f"{about} does not measure {answer.metric}{where} at both layers and as their mean; "
            f"expected {answer.value:.6g}"
        )
    for metric in same:
        if not abs(metric.value - answer.value) <= TOLERANCE:
            at = "the mean over layers" if metric.layer is None else f"layer {metric.layer}"
            raise BenchError(
                f"{about} measures {answer.metric} = {metric.value:.6g} ({at}{where}); "
                f"expected {answer.value:.6g}"
            )
