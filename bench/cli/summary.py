"""How the routers stand: a table of each suite's main metric."""

from __future__ import annotations

import textwrap

import pandas as pd
from rich.table import Table

from bench.cli.columns import Column, Row, main_columns
from bench.cli.words import add_grouped, show, table
from results.older import older_sentence

WIDTH = 80

SIDE_BY_SIDE = 4
"""Suites that fit a terminal of 80 columns; the others follow in a table of their own."""


def print_standings(study: str, frame: pd.DataFrame) -> None:
    """Each router's main metrics side by side, where there are any.

    Args:
        frame: main metrics that count.
    """
    columns = main_columns(frame)
    if not columns:
        return
    print(f"\nStudy {study}: {_what(columns)}\n")
    for start in range(0, len(columns), SIDE_BY_SIDE):
        show(standings(columns[start : start + SIDE_BY_SIDE]))
        print()
    print("\n".join(column.meaning for column in columns))
    if older := older_sentence(frame):
        print(textwrap.fill(older, WIDTH))


def standings(columns: list[Column]) -> Table:
    """One row a router and condition, with its number of seeds where they differ."""
    counts = _seeds(columns)
    one = len(set(counts.values())) == 1
    made = table("router", *([] if one else ["n"]), *(c.suite for c in columns), right="n")
    add_grouped(
        made,
        (
            (*row, [*([] if one else [str(seeds)]), *(column.cell(row) for column in columns)])
            for row, seeds in counts.items()
        ),
    )
    return made


def _seeds(columns: list[Column]) -> dict[Row, int]:
    """Of each router and condition."""
    rows = dict.fromkeys(row for column in columns for row in column.values)
    return {row: max(len(column.values.get(row, ())) for column in columns) for row in rows}


def _what(columns: list[Column]) -> str:
    """What the cells show."""
    counts = set(_seeds(columns).values())
    if counts == {1}:
        return "one seed"
    of = f"{counts.pop()} seeds" if len(counts) == 1 else "n seeds"
    return f"mean of {of}, ± half of its 95 % interval"
