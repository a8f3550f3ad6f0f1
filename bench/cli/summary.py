"""The end of a run: how the routers stand by each suite's main metric, and what failed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from bench.cli.words import add_grouped, show, table
from results.frames import metrics_frame
from results.statistics import Interval, mean_interval
from suites import SUITES

if TYPE_CHECKING:
    from bench.run import Tally
    from results import Store

ARROWS = {"higher": " ↑", "lower": " ↓"}

SIDE_BY_SIDE = 4
"""Suites that fit a terminal of 80 columns; the others follow in a table of their own."""


@dataclass(frozen=True)
class Column:
    """The main metric of one suite: `values` by router and condition, one a seed."""

    suite: str
    metric: str
    unit: str
    better: str | None
    values: dict[tuple[str, str], list[float]]

    @property
    def meaning(self) -> str:
        """What the column shows, for the line under the table."""
        unit = " in %" if self.unit == "share" else f" in {self.unit}" if self.unit else ""
        return f"{self.suite}: {self.metric}{unit}{ARROWS.get(self.better or '', '')}"

    def cell(self, row: tuple[str, str]) -> str:
        """Mean and half of the interval."""
        if row not in self.values:
            return "–"
        scale, digits = (100, 1) if self.unit == "share" else (1, 2)
        return _text(mean_interval([scale * value for value in self.values[row]]), digits)


def print_summary(store: Store, study: str, tally: Tally) -> None:
    """Each router's main metrics, and the run in numbers."""
    columns = main_columns(metrics_frame(store, study))
    if columns:
        print(f"\nStudy {study}: {_what(columns)}\n")
        for start in range(0, len(columns), SIDE_BY_SIDE):
            show(standings(columns[start : start + SIDE_BY_SIDE]))
            print()
        print("\n".join(column.meaning for column in columns))
    counts = [
        f"{number} {what}"
        for what, number in (
            ("trained", tally.trained),
            ("reused", tally.reused),
            ("measured", tally.measured),
            ("skipped", tally.skipped),
            ("failed", len(tally.failures)),
        )
        if number
    ]
    print(f"\n{', '.join(counts) or 'nothing to do'}")


def print_failures(tally: Tally) -> None:
    """Each failure with the first line of why, on stderr."""
    if tally.failures:
        print(f"\n{len(tally.failures)} failed:", file=sys.stderr)
    for failure in tally.failures:
        seed = "" if failure.task.seed is None else f", seed {failure.task.seed}"
        what = f"{failure.what} {failure.status.replace('_', ' ')}: {failure.error}"
        print(f"  {failure.task.name}{seed}: {what}", file=sys.stderr)


def main_columns(frame: pd.DataFrame) -> list[Column]:
    """Of each suite that measured, in the order of their registration."""
    return [_column(name, frame) for name in SUITES.names() if name in set(frame["suite"])]


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


def _seeds(columns: list[Column]) -> dict[tuple[str, str], int]:
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


def _column(suite: str, frame: pd.DataFrame) -> Column:
    target = SUITES.get(suite).target
    found = frame[(frame["suite"] == suite) & (frame["metric"] == target.main_metric)]
    whole = found[found["layer"].isna() & found["step"].isna()]
    wanted = target.main_where.items()
    chosen = whole[[wanted <= json.loads(where).items() for where in whole["where"]]]
    if target.on == "layer" and len(chosen):
        # Timings of two machines are never averaged: the newest machine's are shown.
        chosen = chosen[chosen["machine"] == chosen.loc[chosen["at"].idxmax(), "machine"]]
    values = {
        (str(router), str(condition)): group["value"].tolist()
        for (router, condition), group in chosen.groupby(["router", "condition"], sort=False)
    }
    unit, better = chosen[["unit", "better"]].iloc[0] if len(chosen) else ("", None)
    return Column(suite, target.main_metric, unit or "", better, values)


def _text(interval: Interval, digits: int) -> str:
    mean = f"{interval.mean:.{digits}f}"
    if float(mean) == 0:
        mean = mean.removeprefix("-")
    if interval.low is None:
        return mean
    return f"{mean}±{interval.mean - interval.low:.{digits}f}"
