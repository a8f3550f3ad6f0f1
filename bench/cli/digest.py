"""The digest of a study: what a reader wants to know the next morning, as plain text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cli.display import first_line, wrapped
from bench.cli.standing import Standing, board_of, head_lines, read_standing
from bench.cli.summary import ROW, Column, Row, main_columns, main_metrics
from bench.plan import ENDED
from results import Store
from results.frames import older_sentence
from results.statistics.comparisons import declared, family
from results.statistics.interim import planned_analyses
from results.statistics.means import Interval

Ranked = tuple[Row, Interval]
MOST = 20
"""The most failures that are listed; `status` lists all."""


@dataclass(frozen=True)
class Failure:
    """A trial or a measurement that gave no result; `new` if it failed in the latest run."""

    what: str
    why: str
    log: str | None
    new: bool


def digest(store: Store, study: str, home: Path) -> str:
    """Return what finished, what failed and why, what is new, and who is best, 80 columns wide.

    Args:
        home: folder for everything that runs write.

    Raises:
        StoreError: there is no such study.
    """
    return digest_of(read_standing(store, study), main_metrics(store, study, history=True), home)


def digest_of(standing: Standing, metrics: pd.DataFrame, home: Path) -> str:
    """Return the digest of a study that was already read, with the history of its main metrics."""
    begun = standing.runs[-1].started_at if standing.runs else None
    failures = list(_failures(standing, begun, home))
    page = home / "reports" / standing.study.name / "index.html"
    parts = [
        head_lines(standing, board_of(standing)),
        list(_news(standing, failures, begun)),
        list(_failed(failures)),
        list(_best(metrics, begun, planned_analyses(standing.study.request))),
        [f"report: {page}"] if page.exists() else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _news(standing: Standing, failures: list[Failure], begun: datetime | None) -> Iterator[str]:
    """Yield what the latest run trained and measured, and what was already done."""
    if begun is None:
        return
    trials, measurements = standing.trials, standing.measurements
    done = trials[trials["status"] == "done"]
    trained = int((done["finished_at"] >= begun).sum())
    made = measurements[measurements["at"] >= begun]["status"].value_counts()
    counts = {
        "trained": trained,
        "reused": len(done) - trained,
        "measured": made.get("done", 0),
        "skipped": made.get("skipped", 0),
        "failed": sum(failure.new for failure in failures),
    }
    done = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    yield f"The latest run: {done or 'nothing yet'}"


def _failed(failures: list[Failure]) -> Iterator[str]:
    if failures:
        yield f"{len(failures)} failed:"
    for failure in sorted(failures, key=lambda failure: not failure.new)[:MOST]:
        before = "" if failure.new else " (before the latest run)"
        yield from wrapped(f"  {failure.what}: {failure.why}{before}")
        if failure.log:
            yield f"    log: {failure.log}"
    if len(failures) > MOST:
        yield f"  and {len(failures) - MOST} more: see `status`"


def _failures(standing: Standing, begun: datetime | None, home: Path) -> Iterator[Failure]:
    trials, measurements = standing.trials, standing.measurements

    def failure(row: Any, what: str, at: datetime, log: str | None = None) -> Failure:
        seed = "" if pd.isna(row.seed) else f", seed {row.seed}"
        name = f"{_label(Row(row.router, row.condition, row.aa_replicate))}{seed}"
        new = begun is None or at >= begun
        return Failure(f"{name}: {what}", first_line(row.error), log, new)

    for row in trials[trials["status"].isin(list(ENDED))].itertuples():
        log = str(home / row.log) if row.log else None
        yield failure(row, f"training {row.status.replace('_', ' ')}", row.finished_at, log)
    for row in measurements[measurements["status"] == "failed"].itertuples():
        yield failure(row, f"{row.suite} failed", row.at)


def _best(frame: pd.DataFrame, begun: datetime | None, analyses: int) -> Iterator[str]:
    """Yield each suite's best row, and the best before the latest run if that was another one.

    Args:
        analyses: the number of interim analyses that were planned.
    """
    now = frame[frame["current"]]
    columns = main_columns(now)
    before = {}
    if begun is not None:
        # What was known before that run: the last value of each number.
        earlier = frame[frame["at"] < begun].sort_values("at", kind="stable")
        layers = earlier["attempt"].isna()  # bare layers are timed on each machine
        earlier = earlier.assign(timed_on=earlier["machine"].where(layers))
        place = ["suite", *ROW, "seed", "metric", "layer", "step", "where", "timed_on"]
        known = earlier.drop_duplicates(place, keep="last")
        before = {column.suite: column for column in main_columns(known)}
    if columns:
        yield "Best by each suite's main metric, with 95 % interval:"
    for column in columns:
        yield f"  {column.meaning}"
        for line in _leader(column, before.get(column.suite), analyses):
            yield from wrapped(f"    {line}")
    yield from wrapped(older_sentence(now))


def _leader(column: Column, before: Column | None, analyses: int) -> Iterator[str]:
    ranked = _ranked(column)
    if column.better is None:
        yield "neither direction is better"
    elif not ranked:
        yield "constant by construction for all" if column.values else "nothing was measured"
    else:
        (best, interval), *others = ranked
        yield f"{_label(best)}: {_value_text(column, best, interval)}"
        yield from _second(column, ranked[0], others, analyses)
        was = _ranked(before)[:1] if before else []
        if was and was[0][0] != best:
            yield f"before the latest run: {_label(was[0][0])}: {_value_text(column, *was[0])}"


def _second(column: Column, best: Ranked, others: list[Ranked], analyses: int) -> Iterator[str]:
    """Yield the second-best row that compares with the best, by the same rules as a report."""
    from report.conditions import Entry, System, Systems

    rows = [row for row, _ in (best, *others)]
    entries = [Entry(System(row.router), row.condition, row.aa_replicate) for row in rows]
    first, *rest = map(Systems.of(entries).named, entries)
    others = [each for each, e in zip(others, rest, strict=True) if first.compares_with(e)]
    interval = best[1]
    alike = [row for row, other in others if other.mean == interval.mean]
    if alike:
        yield f"{len(alike)} more with the same value: {', '.join(map(_label, alike))}"
    elif others:
        row, second = others[0]
        compared = [best[0], *(each for each, _ in others)]
        lead = _unresolved(column, compared, analyses)
        yield f"then {_label(row)}: {_value_text(column, row, second)}{lead}"


def _unresolved(column: Column, rows: list[Row], analyses: int) -> str:
    """Return a note that the first row is not shown to differ from the second; "" if it is.

    All pairs of rows are one family. Timings of bare layers, which have no seed, are not tested.
    """
    values = {row: column.by_seed[row] for row in rows if row in column.by_seed}
    if not values:
        return "; lead not tested"
    lead = family(values, declared(rows, []), analyses)[0]
    if lead.difference is None or lead.difference.n == 1:
        return "; lead not resolved: no test of one seed"
    if lead.adjusted is None:
        return "; lead not resolved: no test, as all differences are alike"
    return "" if lead.resolved else f"; lead not resolved (p = {lead.adjusted:.2g} over all pairs)"


def _ranked(column: Column) -> list[Ranked]:
    """Return the rows ranked, best first, without A/A replicates and constant or non-finite values.

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
