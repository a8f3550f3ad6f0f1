"""The tables of a report, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable

from report.parts import Absent
from report.study import StudyData
from report.tables import (
    best,
    claims,
    control,
    differences,
    editing,
    main,
    rankings,
    ranks,
    routing,
    seeds,
    specialization,
    spent,
    throughput,
    trials,
    tuning,
)
from report.tables.table import Table
from report.topics import generic

TABLES: tuple[Callable[[StudyData], Table | Absent], ...] = (
    main.table,
    spent.table,
    rankings.table,
    differences.to_nulls,
    differences.to_best,
    seeds.table,
    ranks.table,
    control.table,
    tuning.table,
    throughput.table,
    routing.balance,
    routing.balance_by_layer,
    routing.entropy,
    best.table,
    specialization.table,
    editing.table,
    claims.table,
    claims.tests,
)
RUNS: tuple[Callable[[StudyData], Table | Absent], ...] = (
    trials.failures,
    trials.trials,
    trials.layers,
)


def make_tables(study: StudyData) -> list[Table | Absent]:
    """Every table, or what it lacks."""
    made, runs = ([make(study) for make in each] for each in (TABLES, RUNS))
    return [*made, *generic.tables(study), *runs]
