"""Cells of a study: a metric's mean over seeds, with what must be said about it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from report.conditions import Entry
from report.study import StudyData
from report.table import (
    CONSTANT,
    MISSING,
    NOT_APPLICABLE,
    OUTSIDE,
    Absent,
    Cell,
    Column,
    Row,
    Table,
    assemble,
    summary,
    words,
)
from results.conditions import Condition

BEST = (
    "Bold: best mean under a condition, among its rows and those without its settings, whether or "
    "not its lead is resolved."
)
INTERVALS = (
    "Mean over seeds ± half the width of its 95 % Student t interval (none where n = 1). "
    "n: number of finished seeds, of those asked for; in brackets where it differs from the row's."
)
LEAD = (
    Column("router", "router", words=True),
    Column("condition", "condition", words=True),
    Column("n", "n", words=True),
)


def metric_cell(study: StudyData, metric: str, entry: Entry, **where: Any) -> Cell:
    """Show the mean of a metric over the seeds; `n/a` where its suite looked and there was none."""
    values = study.final(metric, entry, **where)
    if values.empty:
        looked = study.was_measured(study.suite_of.get(metric), entry)
        return words(NOT_APPLICABLE if looked else MISSING)
    marks = [CONSTANT] if study.is_constant(metric, entry) else []
    return mean_cell(study, entry, values, *marks)


def mean_cell(study: StudyData, entry: Entry, values: pd.Series, *marks: str) -> Cell:
    """Show the mean of an entry's values by seed, with its interval and the trials behind it."""
    trials = study.behind(entry, values.index)
    return summary(list(values), *marks, trials=trials, confidence=study.confidence)


def stands_under(study: StudyData) -> dict[Entry, tuple[Condition, ...]]:
    """Return the conditions that each entry stands beside, most often its own alone."""
    entries = {condition: study.under(condition) for condition in study.conditions}
    return {
        entry: tuple(condition for condition, found in entries.items() if entry in found)
        for entry in study.entries
    }


def sentence_on_analyses(study: StudyData) -> str:
    """Say what a stopping rule does to intervals and p-values; "" where the seeds were fixed."""
    analyses = study.planned_analyses
    if analyses == 1:
        return ""
    return (
        f"Seeds were added until the differences were resolved, with {analyses} looks planned: "
        f"p-values are times {analyses} and intervals as wide as {100 * study.confidence:.4g} % "
        "ones, so that the error rate and the 95 % hold whichever look was the last."
    )


def lead(study: StudyData, entry: Entry, n: int) -> list[Cell]:
    """Make the cells of `LEAD`. Where trials are missing, `n` says of how many."""
    marks = [OUTSIDE] if outside_tolerance(study, entry) else []
    asked = study.trials_of(entry)
    count = str(n) if n == len(asked) else f"{n} of {len(asked)}"
    counted = words(count, trials=asked["trial"])
    return [words(entry.router, *marks), words(entry.condition.label), counted]


def outside_tolerance(study: StudyData, entry: Entry) -> bool:
    """Tell whether a run missed its budget, of whatever was matched, by more than is allowed."""
    return bool((study.final("within_tolerance", entry) == 0).any())


def measured(study: StudyData, suite: str) -> list[Entry]:
    """List the entries that a suite has something to measure of; none where it measured nothing."""
    if suite not in set(study.metrics["suite"]):
        return []
    return [entry for entry in study.entries if study.skipped(suite, entry) is None]


def why_unmeasured(study: StudyData, suite: str) -> str:
    """Say why a suite measured nothing of the study."""
    reasons = (study.skipped(suite, entry) for entry in study.entries)
    reason = next(filter(None, reasons), None)
    return f"suite {suite}: {reason}" if reason else f"no finished trial was measured by {suite}"


def why_without(study: StudyData, suite: str, what: str) -> str:
    """Say why there is nothing of `what` to show: its suite measured nothing, or not that."""
    if not measured(study, suite):
        return why_unmeasured(study, suite)
    return f"no finished trial has {what} (suite {suite})"


NAME, TITLE = "best_and_mean", "Best run and mean: error and expert use"
GATES = {"of": "gates", "kind": "soft"}
SHOWN: tuple[tuple[str, dict[str, Any], Column], ...] = (
    ("top1", {}, Column("error", "error", "%", "lower", 100, 1)),
    ("MI_prediction", GATES, Column("MI_prediction", "I(E;Ŷ)", "bit", digits=2)),
    ("H_s", GATES, Column("H_s", "H_s", "bit", digits=3)),
    ("H_u", GATES, Column("H_u", "H_u", "bit", digits=2)),
)
CAPTION = (
    "Best: the one run of the highest last accuracy on the validation split (n = 1); it says what "
    "luck can reach, and compares nothing. {intervals} Error: share of the test split that is "
    "answered wrongly. I(E;Ŷ): mutual information of the expert (by the gates) with the predicted "
    "class, not corrected for its bias; H_s: mean entropy of the gates; H_u: entropy of the mean "
    "gates. Means over the MoE layers."
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each router and condition that has several seeds."""
    entries = measured(study, "entropy")
    if not entries:
        return Absent(NAME, TITLE, why_unmeasured(study, "entropy"))
    rows = []
    for entry in entries:
        chosen = best_seed(study, entry)
        values = {
            column.key: _values(study, metric, entry, where) for metric, where, column in SHOWN
        }
        n = max(map(len, values.values()))
        cells = lead(study, entry, n)
        cells += [_of_seed(study, entry, by_seed, chosen) for by_seed in values.values()]
        cells += [mean_cell(study, entry, by_seed) for by_seed in values.values()]
        rows.append(Row(tuple(cells), n, entry))
    if all((row.n or 0) < 2 for row in rows):
        return Absent(NAME, TITLE, "one seed is its own best: ask for --seeds 2 or more")
    best = [_renamed(column, "best", n=1) for *_, column in SHOWN]
    mean = [_renamed(column, "mean") for *_, column in SHOWN]
    caption = CAPTION.format(intervals=INTERVALS)
    return assemble(NAME, TITLE, caption, (*LEAD, *best, *mean), rows)


def best_seed(study: StudyData, entry: Entry) -> int | None:
    """Find the seed of the highest last accuracy on the validation split; the first of several."""
    rows = study.rows("val_top1", entry).sort_values(["step", "seed"])
    last = rows.drop_duplicates("seed", keep="last").sort_values("seed")
    return None if last.empty else int(last.loc[last["value"].idxmax(), "seed"])


def _values(study: StudyData, metric: str, entry: Entry, where: dict[str, Any]) -> pd.Series:
    values = study.final(metric, entry, **where)
    return 1 - values if metric == "top1" else values


def _of_seed(study: StudyData, entry: Entry, values: pd.Series, seed: int | None) -> Cell:
    if seed is None or seed not in values.index:
        return words(MISSING)
    return summary([values[seed]], trials=study.behind(entry, [seed]))


def _renamed(column: Column, which: str, n: int | None = None) -> Column:
    return Column(
        f"{column.key}_{which}",
        f"{which} {column.label}",
        column.unit,
        column.better,
        column.scale,
        column.digits,
        n=n,
    )
