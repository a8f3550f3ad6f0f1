"""Whether a written report is as it was written, and the database still supports its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile, zip_longest
from pathlib import Path

from report.contents import make_tables
from report.numbers import Number, Printed, from_json, numbers, row_names, shown
from report.render import changed, texts
from report.study import load_study
from report.table import Cell, Row, Table
from report.write import RENDERERS, digests
from results import Store

GONE = "the database has no such number now"
CONTEXT = 20
"""Characters of a line that a message shows before the first that differs."""


@dataclass(frozen=True)
class Checked:
    """The result of checking a report: what it has, and what no longer holds.

    Attributes:
        numbers: how many its tables have.
        files: how many were written.
        wrong: a message for each number, and for each text, that the database does not support.
        edited: a message for each file that is missing, or is not as it was written.
    """

    study: str
    numbers: int
    files: int
    wrong: tuple[str, ...]
    edited: tuple[str, ...]


def check(store: Store, folder: Path) -> Checked:
    """Compare a written report with what was written, and each number with the database.

    Raises:
        StoreError: the folder holds no report, or the database no longer has its study.
    """
    printed = from_json(folder)
    study = load_study(store, printed.study, printed.claims)
    tables = [table for table in make_tables(study) if isinstance(table, Table)]
    now = {table.name: dict(_rows(table)) for table in tables}
    printed_numbers = [number for table in printed.tables for number in numbers(table)]
    compared = (
        (number, _wrong(number, now.get(number.table.name, {}))) for number in printed_numbers
    )
    wrong = [f"{number.label}: {why}" for number, why in compared if why]
    wrong += changed(printed.texts, texts(study, tables))
    edited = tuple(_edited(folder, printed))
    return Checked(printed.study, len(printed_numbers), len(printed.files), tuple(wrong), edited)


def _edited(folder: Path, printed: Printed) -> Iterator[str]:
    """Tell of each file that is missing or differs from what was written."""
    there = {name: folder / name for name in printed.files if (folder / name).is_file()}
    now = digests(folder, there.values())
    rendered = {
        f"tables/{table.name}.{kind}": partial(render, table)
        for table in printed.tables
        for kind, render in RENDERERS.items()
    }
    for name, digest in printed.files.items():
        if name not in there:
            yield f"{name}: the file is missing"
        elif now[name] != digest:
            where = _difference(there[name], rendered[name]()) if name in rendered else ""
            yield f"{name}: the file was changed after it was written{where}"


def _difference(file: Path, written: str) -> str:
    """Quote the first line of a text file that differs from what was written."""
    now = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, lines in enumerate(zip_longest(now, written.splitlines(), fillvalue=""), 1):
        if lines[0] != lines[1]:
            alike = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*lines, strict=False))
            )
            start = max(0, alike - CONTEXT)
            held, was = (repr(line[start : start + 3 * CONTEXT]) for line in lines)
            return f", line {number}: {held} in the file, {was} when written"
    return ""


Rows = dict[str, tuple[Row, dict[str, Cell]]]


def _rows(table: Table) -> Iterator[tuple[str, tuple[Row, dict[str, Cell]]]]:
    """Yield each row by its name, with its cells by column."""
    keys = [column.key for column in table.columns]
    for name, row in zip(row_names(table), table.rows, strict=True):
        yield name, (row, dict(zip(keys, row.cells, strict=True)))


def _wrong(number: Number, rows: Rows) -> str:
    """Say what no longer holds of a number; "" where all does."""
    row, cells = rows.get(number.row, (None, {}))
    cell = cells.get(number.column.key)
    if row is None or cell is None or (cell.value is None and not cell.words):
        return f"{number.shown} in the report, {GONE}"
    text = shown(number.column, cell, row)
    if text != number.shown:
        return f"{number.shown} in the report, {text} by the database"
    if set(cell.trials) != set(number.cell.trials):
        return f"{number.shown} comes from other trials now"
    return ""
