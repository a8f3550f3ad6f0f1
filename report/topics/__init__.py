"""The sections of a report, and whose numbers each of them shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the page: its names of tables and figures, in order, and those folded away.

    Attributes:
        suites: those whose numbers the section is made for; every other suite of a study gets a
            section from `report.topics.generic`.
    """

    anchor: str
    title: str
    shown: tuple[str, ...]
    folded: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "accuracy",
        "Accuracy",
        ("table:main", "figure:accuracy", "figure:training", "table:rankings", "figure:budgets"),
        suites=("accuracy",),
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
        suites=("throughput",),
    ),
    Section(
        "routing",
        "How they routed",
        ("table:balance", "figure:load", "table:entropy", "figure:entropy", "figure:class_expert"),
        ("table:balance_by_layer", "table:best_and_mean"),
        suites=("balance", "entropy"),
    ),
    Section(
        "experts",
        "What the experts are for",
        ("table:specialization", "figure:class_change", "figure:expert_images"),
        suites=("specialization",),
    ),
    Section("fairness", "Fairness", ("table:editing", "figure:editing"), suites=("editing",)),
)
FAILURES = Section("failures", "Failures", ("table:failures",), ("table:trials", "table:layers"))
BUILT_IN = frozenset(suite for section in SECTIONS for suite in section.suites)
"""The suites that have tables and figures of their own."""
