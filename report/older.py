"""Marks and sentences on results of older code than the newest results of a study."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from report.conditions import Entry, System, closest_layer
from report.study import BUILT_IN, StudyData
from report.table import OLDER, Cell, Column, Row, Table, with_warning
from results import frames
from results.frames import sentence

OTHERS = "*"
"""Stands for all suites that no section is made for."""


def aged_table(table: Table, study: StudyData, suites: Sequence[str]) -> Table:
    """Mark each router, also one compared with, whose numbers by these suites are of older code."""
    older = list[Entry]()

    def marked(column: Column, cell: Cell, row: Row) -> Cell:
        entry = {"router": row.entry, "reference": row.reference}.get(column.key)
        if entry is None or not changed(study, entry, suites):
            return cell
        older.append(entry)
        return replace(cell, marks=(*cell.marks, OLDER))

    rows = []
    for row in table.rows:
        pairs = zip(table.columns, row.cells, strict=True)
        rows.append(replace(row, cells=tuple(marked(*pair, row) for pair in pairs)))
    if not older:
        return table
    warning = f"{OLDER} {older_sentence(study, older, suites)}"
    caption = with_warning(table.caption, warning)
    return replace(table, rows=tuple(rows), caption=caption)


def older_sentence(study: StudyData, entries: Iterable[Entry], suites: Sequence[str]) -> str:
    """Say whose numbers by these suites are of older code; "" where none are."""
    since: dict[System, set[str]] = defaultdict(set)
    for entry in entries:
        if parts := changed(study, entry, suites):
            since[entry.system] |= parts
    return sentence({system.label: parts for system, parts in since.items()})


def changed(study: StudyData, entry: Entry, suites: Sequence[str]) -> set[str]:
    """Find what changed since these suites measured an entry; nothing if it is of newest code."""
    others = study.changed.keys() - BUILT_IN if OTHERS in suites else ()
    parts = set[str]()
    for suite in (*suites, *others):
        by_entry = study.changed.get(suite, {})
        layer = closest_layer(by_entry, entry) if suite == "throughput" else None
        parts |= by_entry.get(layer or entry, set())
    return parts


def older_trials_sentence(trials: pd.DataFrame) -> str:
    """Say whose of these trials are of older code, and what changed since; "" where none are."""
    return frames.older_sentence(trials.assign(router=trials["system"].map(str)))
