"""Whether the database still supports each number of a report that was written from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from report.load import load_study
from report.numbers import Number, from_json, numbers, row_names, shown
from report.tables import make_tables
from report.tables.table import Cell, Row, Table
from report.texts import changed, texts
from results import Store

GONE = "the database has no such number now"


@dataclass(frozen=True)
class Checked:
    """How many numbers the tables of a report have, and what no longer holds, in words.

    That of `wrong` which stands in texts is told by the text.
    """

    study: str
    numbers: int
    wrong: tuple[str, ...]


def check(store: Store, folder: Path) -> Checked:
    """Compare each number of a written report with what the database says of it now.

    Raises:
        StoreError: the folder holds no report, or the database no longer has its study.
    """
    printed = from_json(folder)
    study = load_study(store, printed.study, printed.claims)
    tables = [table for table in make_tables(study) if isinstance(table, Table)]
    now = {table.name: dict(_rows(table)) for table in tables}
    found = [number for table in printed.tables for number in numbers(table)]
    told = ((number, _wrong(number, now.get(number.table.name, {}))) for number in found)
    wrong = [f"{number.told}: {why}" for number, why in told if why]
    wrong += changed(printed.texts, texts(study, tables))
    return Checked(printed.study, len(found), tuple(wrong))


Rows = dict[str, tuple[Row, dict[str, Cell]]]


def _rows(table: Table) -> Iterator[tuple[str, tuple[Row, dict[str, Cell]]]]:
    """Each row by its name, with its cells by column."""
    keys = [column.key for column in table.columns]
    for name, row in zip(row_names(table), table.rows, strict=True):
        yield name, (row, dict(zip(keys, row.cells, strict=True)))


def _wrong(number: Number, rows: Rows) -> str:
    """What no longer holds of a number; "" where all does."""
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
