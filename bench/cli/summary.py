"""How the routers stand: a table of each suite's main metric."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from bench.cli.columns import Column, Row, main_columns
from bench.cli.words import add_grouped, show, table
from results.older import older_sentence

WIDTH = 80
ROOMY = Console(width=1000)
"""For measuring how wide a table would be."""


def print_standings(study: str, frame: pd.DataFrame, suites: Collection[str]) -> None:
    """Each router's main metrics side by side, where there are any.

    Args:
        frame: main metrics that count.
        suites: those that were asked for; the others' metrics are left out.
    """
    shown = frame[frame["suite"].isin(list(suites))]
    columns = main_columns(shown)
    if not columns:
        return
    print(f"\nStudy {study}: {_what(columns)}\n")
    for part in side_by_side(columns):
        show(standings(part))
        print()
    print("\n".join(column.meaning for column in columns))
    if older := older_sentence(shown):
        print(textwrap.fill(older, WIDTH))


def side_by_side(columns: list[Column]) -> list[list[Column]]:
    """The columns in groups that fit a terminal, each to be a table of its own."""
    groups: list[list[Column]] = [[]]
    for column in columns:
        wide = Measurement.get(ROOMY, ROOMY.options, standings([*groups[-1], column])).maximum
        if groups[-1] and wide > WIDTH:
            groups.append([])
        groups[-1].append(column)
    return groups


def standings(columns: list[Column]) -> Table:
    """One row a router and condition. A suite's heading has its number of seeds, or each cell."""
    headings = (f"{c.suite}\nn={c.seeds}" if c.seeds else f"{c.suite}\n(n)" for c in columns)
    made = table("router", *headings)
    rows: dict[Row, None] = dict.fromkeys(row for column in columns for row in column.values)
    cells = {row: [_cell(column, row) for column in columns] for row in rows}
    add_grouped(made, ((row[0], str(row[1]), cells[row]) for row in rows))
    return made


def _cell(column: Column, row: Row) -> str:
    """What the column shows of a row, with its number of seeds where they differ."""
    counted = row in column.values and not column.seeds
    return f"{column.cell(row)} ({len(column.values[row])})" if counted else column.cell(row)


def _what(columns: list[Column]) -> str:
    """What the cells show."""
    if all(column.seeds == 1 for column in columns):
        return "one seed"
    return "mean of n seeds, ± half of its 95 % interval"
