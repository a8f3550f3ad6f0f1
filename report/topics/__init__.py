"""The tables, figures and sections of a report, in the order in which they are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

from report.study import StudyData
from report.style import Drawing
from report.table import Absent, Table
from report.topics import (
    accuracy,
    budgets,
    claims,
    compute,
    control,
    cost,
    differences,
    editing,
    generic,
    ranks,
    routing,
    specialization,
    stability,
    trials,
    tuning,
)
from report.topics.make import Section

TABLES = (
    accuracy.table,
    compute.table,
    compute.rankings_table,
    differences.to_nulls,
    differences.to_best,
    differences.seeds_table,
    ranks.table,
    control.table,
    tuning.table,
    cost.table,
    routing.balance_table,
    routing.layer_table,
    routing.entropy_table,
    routing.best_table,
    stability.table,
    specialization.table,
    editing.table,
    claims.table,
    claims.tests,
)
RUNS = (trials.failures, trials.trials, trials.layers)
FIGURES = (
    accuracy.draw,
    accuracy.draw_training,
    budgets.draw,
    ranks.draw,
    tuning.draw,
    cost.draw,
    cost.draw_scaling,
    routing.draw_load,
    routing.draw_entropy,
    specialization.draw_served,
    specialization.draw_change,
    specialization.draw_images,
    editing.draw,
)
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
        ("table:seed_agreement", "table:balance_by_layer", "table:best_and_mean"),
    ),
    Section(
        "experts",
        "What the experts are for",
        ("table:specialization", "figure:class_change", "figure:expert_images"),
    ),
    Section("fairness", "Fairness", ("table:editing", "figure:editing")),
)
FAILURES = Section("failures", "Failures", ("table:failures",), ("table:trials", "table:layers"))


def make_tables(study: StudyData) -> list[Table | Absent]:
    """Make every table, or say what it lacks."""
    made, runs = ([make(study) for make in each] for each in (TABLES, RUNS))
    return [*made, *generic.tables(study), *runs]


def draw_figures(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw every figure, or say what it lacks: once, where every condition lacks it alike.

    One warning names the characters that no installed font has.
    """
    lacking: set[str] = set()
    for figure in (*FIGURES, *generic.curves(study)):
        parts = list(figure(study))
        absent = [part for part in parts if isinstance(part, Absent)]
        if len(absent) == len(parts) and len({(part.why, part.fine) for part in absent}) == 1:
            yield replace(absent[0], name=figure.name, title=figure.title)
        else:
            lacking.update(*(part.lacking for part in parts if isinstance(part, Drawing)))
            yield from parts
    if lacking:
        warnings.warn(
            f"no installed font has {' '.join(sorted(lacking))}: the figures show numbers of "
            "classes, or codes of characters, instead; a Noto font of that script would help",
            stacklevel=2,
        )
