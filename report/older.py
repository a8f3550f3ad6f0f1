"""Results of older code beside newer ones: their rows are marked, and a sentence says whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat

from report.entries import Entry, closest_layer
from report.figures.canvas import Drawing
from report.parts import Absent
from report.study import StudyData
from report.tables.table import OLDER, Cell, Column, Row, Table
from report.topics import generic
from results.older import sentence

SUITES = {
    "main": ("accuracy", "throughput", "balance", "entropy"),
    "differences_nulls": ("accuracy",),
    "differences_best": ("accuracy",),
    "seeds": ("accuracy",),
    "ranks": ("accuracy",),
    "rankings": ("accuracy",),
    "spent": ("accuracy",),
    "control": ("accuracy", "throughput"),
    "budgets": ("accuracy",),
    "critical_difference": ("accuracy",),
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


def aged_figure(part: Drawing | Absent, study: StudyData) -> Drawing | Absent:
    """The figure with whose numbers are of older code in its caption, where any are."""
    if isinstance(part, Absent):
        return part
    older = older_sentence(study, part.entries, _suites(part, study))
    return replace(part, caption=f"{part.caption} {older}") if older else part


def aged_table(part: Table | Absent, study: StudyData) -> Table | Absent:
    """The same of a table, with a mark at each router, also one compared with, that is meant."""
    if isinstance(part, Absent):
        return part
    suites, older = _suites(part, study), list[Entry]()

    def marked(column: Column, cell: Cell, row: Row) -> Cell:
        if column.key not in ("router", "reference") or row.entry is None:
            return cell
        entry = _entry(study, column, cell, row)
        if not changed(study, entry, suites):
            return cell
        older.append(entry)
        return replace(cell, marks=(*cell.marks, OLDER))

    rows = [
        replace(row, cells=tuple(map(marked, part.columns, row.cells, repeat(row))))
        for row in part.rows
    ]
    if not older:
        return part
    caption = f"{part.caption} {OLDER} {older_sentence(study, older, suites)}"
    return replace(part, rows=tuple(rows), caption=caption)


def _entry(study: StudyData, column: Column, cell: Cell, row: Row) -> Entry:
    """The entry that a cell names: a reference may lack settings of the row's condition."""
    assert row.entry is not None
    if column.key != "reference":
        return Entry(cell.words, row.entry.condition)
    (condition,) = row.under
    return study.entry(cell.words, condition) or Entry(cell.words, condition)


def older_sentence(study: StudyData, entries: Iterable[Entry], suites: Sequence[str]) -> str:
    """Whose numbers by these suites are of older code; "" where none are."""
    since: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if told := changed(study, entry, suites):
            since[entry.router] |= told
    return sentence(since)


def changed(study: StudyData, entry: Entry, suites: Iterable[str]) -> set[str]:
    """What changed since these suites measured an entry; nothing where it is of newest code."""
    return set[str]().union(*(_changed(study.changed.get(s, {}), entry, s) for s in suites))


def _changed(found: dict[Entry, set[str]], entry: Entry, suite: str) -> set[str]:
    if suite == "throughput":
        entry = closest_layer(found, entry) or entry
    return found.get(entry, set())


def _suites(part: Table | Drawing, study: StudyData) -> Sequence[str]:
    name, others = part.name.partition("--")[0], generic.measured_by(study)
    return (*SUITES.get(name, ()), *others.get(name, ())) or (name,)
