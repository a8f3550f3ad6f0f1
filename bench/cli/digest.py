"""The digest of a study: what a reader wants to know in the morning, as plain text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cli.display import first_line
from bench.cli.standing import Standing, board_of, head_lines, read_standing
from bench.cli.summary import ROW, Column, Row, main_columns, main_metrics
from bench.plan import ENDED
from results import Store
from results.statistics import Interval
from results.versions import older_sentence

WIDTH = 80
MOST = 20
"""Failures that are listed; `status` lists all."""


@dataclass(frozen=True)
class Failure:
    """A trial or a measurement that gave no result; `new` where the latest run is to blame."""

    what: str
    why: str
    log: str | None
    new: bool


def digest(store: Store, study: str, home: Path) -> str:
    """Return what finished, what failed and why, what is new, and who is best: 80 columns of text.

    Args:
        home: folder of everything that runs make.

    Raises:
        StoreError: no such study.
    """
    return digest_of(read_standing(store, study), main_metrics(store, study, history=True), home)


def digest_of(standing: Standing, metrics: pd.DataFrame, home: Path) -> str:
    """Return the digest of a study that was read already.

    Args:
        metrics: main metrics with their history.
    """
    begun = standing.runs[-1].started_at if standing.runs else None
    page = home / "reports" / standing.study.name / "index.html"
    parts = [
        head_lines(standing, board_of(standing)),
        list(_news(standing, begun)),
        list(_failed(standing, begun, home)),
        list(_best(metrics, begun)),
        [f"report: {page}"] if page.exists() else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _news(standing: Standing, begun: datetime | None) -> Iterator[str]:
    """Yield what the latest run trained and measured, and what was done already."""
    if begun is None:
        return
    trials, measurements = standing.trials, standing.measurements
    done = trials[trials["status"] == "done"]
    trained = int((done["finished_at"] >= begun).sum())
    made = measurements[measurements["at"] >= begun]["status"].value_counts()
    failed = sum(failure.new for failure in _failures(standing, begun, Path()))
    counts = {
        "trained": trained,
        "reused": len(done) - trained,
        "measured": made.get("done", 0),
        "skipped": made.get("skipped", 0),
        "failed": failed,
    }
    done = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    yield f"The latest run: {done or 'nothing yet'}"


def _failed(standing: Standing, begun: datetime | None, home: Path) -> Iterator[str]:
    failures = sorted(_failures(standing, begun, home), key=lambda failure: not failure.new)
    if failures:
        yield f"{len(failures)} failed:"
    for failure in failures[:MOST]:
        before = "" if failure.new else " (before the latest run)"
        yield from _wrapped(f"  {failure.what}: {failure.why}{before}")
        if failure.log:
            yield f"    log: {failure.log}"
    if len(failures) > MOST:
        yield f"  and {len(failures) - MOST} more: see `status`"


def _failures(standing: Standing, begun: datetime | None, home: Path) -> Iterator[Failure]:
    trials, measurements = standing.trials, standing.measurements
    for row in trials[trials["status"].isin(list(ENDED))].itertuples():
        what = f"{_name(row)}: training {row.status.replace('_', ' ')}"
        log = str(home / row.log) if row.log else None
        yield Failure(what, first_line(row.error), log, begun is None or row.finished_at >= begun)
    for row in measurements[measurements["status"] == "failed"].itertuples():
        what = f"{_name(row)}: {row.suite} failed"
        yield Failure(what, first_line(row.error), None, begun is None or row.at >= begun)


def _best(frame: pd.DataFrame, begun: datetime | None) -> Iterator[str]:
    """Return each suite's best row, and the one before the latest run where it was another."""
    now = frame[frame["current"]]
    columns = main_columns(now)
    before = {} if begun is None else {c.suite: c for c in main_columns(_until(frame, begun))}
    if columns:
        yield "Best by each suite's main metric, with its 95 % interval:"
    for column in columns:
        yield f"  {column.meaning}"
        for line in _leader(column, before.get(column.suite)):
            yield from _wrapped(f"    {line}")
    yield from _wrapped(older_sentence(now))


def _until(frame: pd.DataFrame, begun: datetime) -> pd.DataFrame:
    """Return what was known at a time: the last value of each number."""
    earlier = frame[frame["at"] < begun].sort_values("at", kind="stable")
    place = ["suite", *ROW, "seed", "metric", "layer", "step", "where", "machine"]
    return earlier.drop_duplicates(place, keep="last")


def _leader(column: Column, before: Column | None) -> Iterator[str]:
    ranked = _ranked(column)
    if column.better is None:
        yield "neither direction is better"
    elif not ranked:
        yield "constant by construction for all" if column.values else "nothing was measured"
    else:
        (best, interval), *others = ranked
        yield f"{_label(best)}: {_value_text(column, best, interval)}"
        yield from _lead(column, interval, _comparable(best, others))
        was = _ranked(before)[:1] if before else []
        if was and was[0][0] != best:
            yield f"before the latest run: {_label(was[0][0])}: {_value_text(column, *was[0])}"


def _lead(column: Column, best: Interval, others: list[tuple[Row, Interval]]) -> Iterator[str]:
    """Return the second of the rows that compare, and whether the intervals separate the two."""
    alike = [row for row, interval in others if interval.mean == best.mean]
    if alike:
        yield f"{len(alike)} more with the same value: {', '.join(map(_label, alike))}"
    elif others:
        row, second = others[0]
        yield f"then {_label(row)}: {_value_text(column, row, second)}{_unresolved(best, second)}"


def _comparable(best: Row, others: list[tuple[Row, Interval]]) -> list[tuple[Row, Interval]]:
    """Return the rows that compare with the best, by the same rules as a report."""
    from report.conditions import Entry, Systems

    systems = Systems.of([Entry(*best), *(Entry(*row) for row, _ in others)])
    first = systems.named(Entry(*best))
    return [each for each in others if first.stands_beside(systems.named(Entry(*each[0])))]


def _unresolved(a: Interval, b: Interval) -> str:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return "; lead not resolved: no interval from one seed"
    if a.low <= b.high and b.low <= a.high:
        return "; lead not resolved: the intervals overlap"
    return ""


def _ranked(column: Column) -> list[tuple[Row, Interval]]:
    """Rank rows, the best first; leave out A/A replicates and what is constant or not finite.

    A second run in the A/A control competes with nobody.
    """
    if column.better is None:
        return []
    rows = [row for row in column.values if row not in column.constant and not row.aa_replicate]
    intervals = [(row, column.interval(row)) for row in rows]
    finite = [(row, interval) for row, interval in intervals if math.isfinite(interval.mean)]
    return sorted(finite, key=lambda each: each[1].mean, reverse=column.better == "higher")


def _value_text(column: Column, row: Row, interval: Interval) -> str:
    mean = column.marked(row, interval.mean)
    if interval.low is None or interval.high is None:
        return f"{mean} (n = {interval.n})"
    ends = f"{column.number(interval.low)} to {column.number(interval.high)}"
    return f"{mean} ({ends}, n = {interval.n})" if interval.n > 1 else f"{mean} ({ends})"


def _label(row: Row) -> str:
    return f"{row.label} {row.condition}".strip()


def _name(row: Any) -> str:
    seed = "" if pd.isna(row.seed) else f", seed {row.seed}"
    return f"{_label(Row(row.router, row.condition, row.aa_replicate))}{seed}"


def _wrapped(line: str) -> list[str]:
    """Wrap text at `WIDTH` columns, but for words that are longer."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line,
        WIDTH,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
