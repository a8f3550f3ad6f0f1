"""Results of older code beside newer ones: their rows are marked, and a sentence says whose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat

from report.entries import Entry, closest
from report.figures.canvas import Drawing
from report.parts import Absent
from report.study import StudyData
from report.tables.table import OLDER, Cell, Column, Row, Table
from results.older import sentence

SUITES = {
    "main": ("accuracy", "throughput", "balance", "entropy"),
    "differences_dense": ("accuracy",),
    "differences_best": ("accuracy",),
    "best_and_mean": ("accuracy", "entropy"),
    "balance_by_layer": ("balance",),
    "training": ("accuracy",),
    "overhead": ("throughput",),
    "scaling_experts": ("throughput",),
    "load": ("balance",),
    "class_expert": ("entropy",),
    "class_change": ("specialization",),
    "expert_images": ("specialization",),
}
"""Whose numbers a table or figure shows, by its name; others are named as their suite is."""




def told_age(part: Table | Drawing | Absent, study: StudyData) -> Table | Drawing | Absent:
    """The part with what must be said about the age of its numbers."""
    if isinstance(part, Absent):
        return part
    name = part.name.partition("--")[0]
    suites = SUITES.get(name, (name,))
    if isinstance(part, Table):
        return _marked(part, study, suites)
    older = [entry.router for entry in part.entries if is_older(study, entry, suites)]
    return replace(part, caption=f"{part.caption} {sentence(older)}") if older else part


def is_older(study: StudyData, entry: Entry, suites: Iterable[str]) -> bool:
    """Whether a number that one of these suites measured of an entry is of older code."""
    return any(_older(study.older.get(suite, {}), entry, suite) for suite in suites)


def _older(found: dict[Entry, bool], entry: Entry, suite: str) -> bool:
    if suite == "throughput":  # a layer lacks the settings of training
        return found.get(closest(found, entry.router, entry.condition) or entry, False)
    return found.get(entry, False)


def _marked(table: Table, study: StudyData, suites: Iterable[str]) -> Table:
    """The table with a mark at each router, also one compared with, whose numbers are older."""
    older = []

    def marked(column: Column, cell: Cell, row: Row) -> Cell:
        if column.key not in ("router", "reference") or row.entry is None:
            return cell
        if not is_older(study, Entry(cell.words, row.entry.condition), suites):
            return cell
        older.append(cell.words)
        return replace(cell, marks=(*cell.marks, OLDER))

    rows = [
        replace(row, cells=tuple(map(marked, table.columns, row.cells, repeat(row))))
        for row in table.rows
    ]
    if not older:
        return table
    return replace(table, rows=tuple(rows), caption=f"{table.caption} {OLDER} {sentence(older)}")
