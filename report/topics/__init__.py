"""The sections of a report, and whose numbers each of them shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the page: its names of tables and figures, in order, and those folded away."""

    anchor: str
    title: str
    shown: tuple[str, ...]
    folded: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "accuracy",
        "Accuracy",
        ("table:main", "figure:accuracy", "figure:training", "table:rankings", "figure:budgets"),
    ),
    Section(
        "differences",
        "Differences",
        (
            *("table:differences_nulls", "table:differences_best", "table:seeds"),
            *("table:ranks", "figure:critical_difference", "table:control"),
        ),
    ),
    Section("tuning", "Tuning", ("table:tuning", "figure:tuning")),
    Section("claims", "Claims", ("table:claims",), ("table:claim_tests",)),
    Section(
        "cost",
        "What routing costs",
        ("table:spent", "figure:overhead"),
        ("table:throughput",),
    ),
    Section(
        "routing",
        "How they routed",
        ("table:balance", "figure:load", "table:entropy", "figure:entropy", "figure:class_expert"),
        ("table:balance_by_layer", "table:best_and_mean"),
    ),
    Section(
        "experts",
        "What the experts are for",
        ("table:specialization", "figure:class_change", "figure:expert_images"),
    ),
    Section("fairness", "Fairness", ("table:editing", "figure:editing")),
)
FAILURES = Section("failures", "Failures", ("table:failures",), ("table:trials", "table:layers"))
BUILT_IN = frozenset({"accuracy", "balance", "editing", "entropy", "specialization", "throughput"})
"""The suites that have tables and figures of their own; others get those of `generic`."""
