"""Marks on the cells of a table: for the best means and for results of older code."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from statistics import fmean

import pandas as pd

from report.conditions import Entry, System, closest_layer
from report.study import BUILT_IN, StudyData
from report.table import CONSTANT, OLDER, TIED, Cell, Column, Row, Table, with_warning
from results import frames
from results.conditions import Condition
from results.statistics.comparisons import NULLS, BySeed, declared, family


def with_best(study: StudyData, table: Table) -> Table:
    """Mark the best means of the ranked columns, under each condition.

    The best is bold if it is resolved from every other mean that it is compared with, by the same
    tests as for test accuracy. Otherwise it gets a mark, and so do those that it is not resolved
    from. Nothing is marked if no test is possible, for example with one seed.
    """
    seeds = dict(zip(study.trials["trial"], study.trials["seed"], strict=True))
    columns = [list(cells) for cells in zip(*(row.cells for row in table.rows), strict=True)]
    for place, column in enumerate(table.columns):
        if column.ranked:
            columns[place] = _marked(study, column, columns[place], table.rows, seeds)
    rows = zip(table.rows, zip(*columns, strict=True), strict=True)
    return replace(table, rows=tuple(replace(row, cells=cells) for row, cells in rows))


def _marked(
    study: StudyData,
    column: Column,
    cells: Sequence[Cell],
    rows: Sequence[Row],
    seeds: Mapping[str, int],
) -> list[Cell]:
    by_condition: dict[Condition, dict[int, BySeed]] = {}
    for number, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        if cell.value is None or not cell.values or CONSTANT in cell.marks:
            continue
        pairs = zip(cell.trials, cell.values, strict=True)
        by_seed = {seeds[t]: value for t, value in pairs if t in seeds and isfinite(value)}
        for condition in row.under if by_seed else ():  # a bare layer has none
            by_condition.setdefault(condition, {})[number] = by_seed
    best, tied = set[int](), set[int]()
    for condition, values in by_condition.items():
        others = [other for place, other in by_condition.items() if place != condition]
        nulls = [n for n in values if (entry := rows[n].entry) and entry.system.router in NULLS]
        compared = family(
            values,
            declared([number for number in values if number not in nulls], nulls),
            study.planned_analyses,
            others,
        )
        means = {number: fmean(by_seed.values()) for number, by_seed in values.items()}
        choose = max if column.better == "higher" else min
        leader = choose(means, key=means.__getitem__)
        if all(each.adjusted is None for each in compared):
            continue
        with_leader = [each for each in compared if leader in (each.entry, each.reference)]
        unresolved = [each for each in with_leader if not each.resolved]
        if unresolved:
            tied |= {leader, *(n for each in unresolved for n in (each.entry, each.reference))}
        else:
            best.add(leader)
    return [
        replace(cell, best=number in best, marks=(*cell.marks, *([TIED] if number in tied else ())))
        for number, cell in enumerate(cells)
    ]


OTHERS = "*"
"""Stands for all suites without a section of their own."""


def aged_table(table: Table, study: StudyData, suites: Sequence[str]) -> Table:
    """Mark each router, references included, whose numbers by these suites are of older code."""
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
    """Return a sentence on whose numbers by these suites are of older code, or "" if none are."""
    since: dict[System, set[str]] = defaultdict(set)
    for entry in entries:
        if parts := changed(study, entry, suites):
            since[entry.system] |= parts
    return frames.sentence({system.label: parts for system, parts in since.items()})


def changed(study: StudyData, entry: Entry, suites: Sequence[str]) -> set[str]:
    """Return the parts of the code changed since these suites measured an entry, empty if none."""
    others = study.changed.keys() - BUILT_IN if OTHERS in suites else ()
    parts = set[str]()
    for suite in (*suites, *others):
        by_entry = study.changed.get(suite, {})
        layer = closest_layer(by_entry, entry) if suite == "throughput" else None
        parts |= by_entry.get(layer or entry, set())
    return parts


def older_trials_sentence(trials: pd.DataFrame) -> str:
    """Return whose trials are of older code and what changed since, or "" if none are."""
    return frames.older_sentence(trials.assign(router=trials["system"].map(str)))
