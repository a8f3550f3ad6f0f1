"""Each suite's main metric, by router and condition."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from bench.cli.display import WIDTH, add_grouped, print_table, table, wrapped
from results import Store
from results.conditions import Condition, router_label
from results.frames import metrics_frame, older_sentence
from results.statistics.means import Interval, mean_interval
from suites import SUITES

DISTURBED = "¶"
"""The mark after a timing that other processes disturbed, here and in the report."""
ROW = ["router", "aa_replicate", "settings"]
"""The columns of a frame that distinguish the rows of a table."""
ARROWS = {"higher": " ↑", "lower": " ↓"}


class Row(NamedTuple):
    """A router under a condition; `aa_replicate` is 1 for its second run in the A/A control."""

    router: str
    condition: Condition
    aa_replicate: int = 0

    @property
    def label(self) -> str:
        """The router's name for readers."""
        return router_label(self.router, self.aa_replicate)


@dataclass(frozen=True)
class Column:
    """The main metric of one suite.

    Attributes:
        values: values by router and condition, one per seed.
        by_seed: the same values by seed, for trained models.
        ends: interval of a value that has its own, such as a timing's over its repeats.
        constant: rows whose values are constant by construction and say nothing about the router.
        disturbed: rows that were timed while other processes kept the machine busy.
    """

    suite: str
    metric: str
    unit: str
    better: str | None
    values: dict[Row, list[float]]
    by_seed: dict[Row, dict[int, float]] = field(default_factory=dict)
    ends: dict[Row, tuple[float, float]] = field(default_factory=dict)
    constant: Collection[Row] = ()
    disturbed: Collection[Row] = ()

    @property
    def meaning(self) -> str:
        """The line under the table that says what the column shows."""
        unit = " in %" if self.unit == "share" else f" in {self.unit}" if self.unit else ""
        mark = f" ({DISTURBED} other processes kept the machine busy)" if self.disturbed else ""
        return f"{self.suite}: {self.metric}{unit}{ARROWS.get(self.better or '', '')}{mark}"

    @property
    def seeds(self) -> int | None:
        """The number of seeds of every row; None if the rows differ."""
        counts = {len(values) for values in self.values.values()}
        return counts.pop() if len(counts) == 1 else None

    def interval(self, row: Row) -> Interval:
        """Return mean and interval over seeds, or of one value, in the displayed unit."""
        scale = 100 if self.unit == "share" else 1
        interval = mean_interval([scale * value for value in self.values[row]])
        if interval.n == 1 and row in self.ends:
            low, high = (scale * end for end in self.ends[row])
            return Interval(1, interval.mean, low, high)
        return interval

    def number(self, value: float) -> str:
        """Return a value in the displayed unit."""
        text = f"{value:.{1 if self.unit == 'share' else 2}f}"
        return text.removeprefix("-") if float(text) == 0 else text

    def marked(self, row: Row, value: float) -> str:
        """Return a value of a row in the displayed unit, with its mark."""
        return self.number(value) + DISTURBED * (row in self.disturbed)

    def cell(self, row: Row) -> str:
        """Return the mean and half the interval over seeds."""
        if row not in self.values:
            return "–"
        interval = self.interval(row)
        if interval.low is None or interval.n == 1:
            return self.marked(row, interval.mean)
        return f"{self.number(interval.mean)}±{self.number(interval.mean - interval.low)}"


def main_metrics(store: Store, study: str, *, history: bool = False) -> pd.DataFrame:
    """Return the metrics that the columns are made from; see `metrics_frame`."""
    names = [SUITES.get(name).target.main_metric for name in SUITES.names()]
    ends = [f"{name}_{end}" for name in names for end in ("low", "high")]
    return metrics_frame(store, study, history=history, names={*names, *ends, "disturbed"})


def main_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of a frame of main metrics."""
    return [_column(name, frame) for name in SUITES.names() if name in set(frame["suite"])]


def _column(suite: str, frame: pd.DataFrame) -> Column:
    target = SUITES.get(suite).target
    of_suite = frame[frame["suite"] == suite]
    whole = of_suite[of_suite["layer"].isna() & of_suite["step"].isna()]
    wheres = [json.loads(where) for where in whole["where"]]
    wanted = target.main_where.items()
    chosen = whole.assign(constant=[bool(where.get("constant")) for where in wheres])[
        [wanted <= where.items() for where in wheres]
    ]
    if target.on == "layer" and len(chosen):
        # Timings of two machines are never averaged: those of the newest machine are shown.
        chosen = chosen[chosen["machine"] == chosen.loc[chosen["at"].idxmax(), "machine"]]
    mean = chosen[chosen["metric"] == target.main_metric]
    low, high = (
        _by_row(chosen[chosen["metric"] == f"{target.main_metric}_{end}"])
        for end in ("low", "high")
    )
    values = _by_row(mean)
    ends = {
        row: (low[row][0], high[row][0])
        for row in values
        if len(low.get(row, ())) == len(high.get(row, ())) == 1
    }
    constant = set(_by_row(mean[mean["constant"]]))
    marks = _by_row(chosen[chosen["metric"] == "disturbed"])
    disturbed = {row for row, values in marks.items() if any(values)}
    unit, better = mean[["unit", "better"]].iloc[0] if len(mean) else ("", None)
    by_seed = {
        row: dict(zip(group["seed"].astype(int), group["value"], strict=True))
        for row, group in _groups(mean.dropna(subset="seed"))
    }
    return Column(
        *(suite, target.main_metric, unit or "", better, values),
        by_seed=by_seed,
        ends=ends,
        constant=constant,
        disturbed=disturbed,
    )


def _by_row(frame: pd.DataFrame) -> dict[Row, list[float]]:
    return {row: group["value"].tolist() for row, group in _groups(frame)}


def _groups(frame: pd.DataFrame) -> Iterator[tuple[Row, pd.DataFrame]]:
    for (router, replicate, settings), group in frame.groupby(ROW, sort=False):
        yield Row(router, Condition.of(json.loads(settings)), replicate), group


ROOMY = Console(width=1000)
"""For measuring how wide a table would be."""


def print_standings(study: str, frame: pd.DataFrame, suites: Collection[str]) -> None:
    """Print each router's main metrics side by side, if there are any.

    Args:
        frame: the main metrics that count.
        suites: the suites that were asked for; metrics of other suites are left out.
    """
    shown = frame[frame["suite"].isin(list(suites))]
    columns = main_columns(shown)
    if not columns:
        return
    single = all(column.seeds == 1 for column in columns)
    cells = "one seed" if single else "mean of n seeds, ± half of its 95 % interval"
    print(f"\nStudy {study}: {cells}\n")
    for part in side_by_side(columns):
        print_table(standings(part))
        print()
    print("\n".join(column.meaning for column in columns))
    if older := older_sentence(shown):
        print("\n".join(wrapped(older, hang="")))


def side_by_side(columns: list[Column]) -> list[list[Column]]:
    """Return the columns in groups that fit a terminal, one group per table."""
    groups: list[list[Column]] = [[]]
    for column in columns:
        wide = Measurement.get(ROOMY, ROOMY.options, standings([*groups[-1], column])).maximum
        if groups[-1] and wide > WIDTH:
            groups.append([])
        groups[-1].append(column)
    return groups


def standings(columns: list[Column]) -> Table:
    """Return a table with one row per router and condition, and numbers of seeds in the headings.

    If the rows of a suite differ in that number, each cell shows its own.
    """
    headings = (f"{c.suite}\nn={c.seeds}" if c.seeds else f"{c.suite}\n(n)" for c in columns)
    made = table("router", *headings)
    rows: dict[Row, None] = dict.fromkeys(row for column in columns for row in column.values)
    shown = []
    for row in rows:
        cells = []
        for column in columns:
            counted = row in column.values and not column.seeds
            cells.append(column.cell(row) + (f" ({len(column.values[row])})" if counted else ""))
        shown.append((row.label, str(row.condition), cells))
    add_grouped(made, shown)
    return made
