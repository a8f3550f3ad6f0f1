"""Cells of a study: a metric's mean over seeds, its marks, and why a metric may be missing."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from report.conditions import ANY, Entry
from report.study import StudyData
from report.table import (
    CONSTANT,
    DEPENDENT,
    MISSING,
    NOT_APPLICABLE,
    OUTSIDE,
    Cell,
    Lacking,
    Row,
    summary,
    text_columns,
    words,
)
from results.conditions import Condition

INTERVALS = "Mean over the n seeds ± half of its 95 % Student t interval."
READING = (
    "Where a table gives the mean over seeds, ± is half the width of its 95 % Student t interval; "
    "with one seed there is none, and one that rounds to 0 is left out. It is only a visual aid: "
    "whether two systems differ is decided by p (family). n is the number of finished seeds, of "
    "those asked for; it is in brackets where it differs from that of its row. The best mean under "
    "a condition, among its rows and those without its settings, is bold if it is resolved from "
    "all of them."
)
"""What holds for all tables and is said only once."""
LEAD = text_columns("router", "condition", "n")
MOST, FEW = 8, 4
"""A sentence lists up to MOST entries, and only FEW if there are more."""


def metric_cell(study: StudyData, metric: str, entry: Entry, **where: Any) -> Cell:
    """Show the mean of a metric over the seeds, or `n/a` if its suite ran without giving it."""
    values = study.final(metric, entry, **where)
    if values.empty:
        was_measured = study.was_measured(study.suite_of.get(metric), entry)
        return words(NOT_APPLICABLE if was_measured else MISSING)
    marks = [CONSTANT] if study.is_constant(metric, entry) else []
    return mean_cell(study, entry, values, *marks)


def mean_cell(study: StudyData, entry: Entry, values: pd.Series, *marks: str) -> Cell:
    """Show the mean of an entry's values by seed, with its interval and the trials behind it."""
    trials = study.behind(entry, values.index)
    return summary(list(values), *marks, trials=trials, confidence=study.confidence)


def stands_under(study: StudyData) -> dict[Entry, tuple[Condition, ...]]:
    """Return the conditions that each entry belongs to, usually only its own."""
    entries = {condition: study.under(condition) for condition in study.conditions}
    return {
        entry: tuple(condition for condition, own in entries.items() if entry in own)
        for entry in study.entries
    }


def sentence_on_analyses(study: StudyData) -> str:
    """Return what a stopping rule does to intervals and p-values, or "" if the seeds were fixed."""
    analyses = study.planned_analyses
    if analyses == 1:
        return ""
    return (
        f"Seeds were added until the differences were resolved, with {analyses} interim analyses "
        f"planned: p-values are multiplied by {analyses} and intervals as wide as "
        f"{100 * study.confidence:.4g} % ones, so that the error rate and the 95 % hold whichever "
        "analysis was the last."
    )


def lead(study: StudyData, entry: Entry, n: int) -> list[Cell]:
    """Make the cells of `LEAD`; if trials are missing, `n` is shown as `2 of 3`."""
    missed = (study.final("within_tolerance", entry) == 0).any()
    marks = [OUTSIDE] if missed else []
    marks += [DEPENDENT] if depends_on_batch(study, entry) else []
    asked = study.trials_of(entry)
    count = str(n) if n == len(asked) else f"{n} of {len(asked)}"
    counted = words(count, trials=asked["trial"])
    return [words(entry.label, *marks), words(entry.condition.label), counted]


def listed(names: Sequence[str], table: str, joint: str = ", ") -> str:
    """List names in a sentence: all, or a few and the name of the table that has the rest."""
    if len(names) <= MOST:
        return joint.join(names)
    return joint.join([*names[:FEW], f"and {len(names) - FEW} more (tables/{table}.csv)"])


def metric_row(
    study: StudyData,
    entry: Entry,
    cells: Sequence[Cell],
    *labels: str,
    n: int | None = None,
    under: tuple[Condition, ...] = (ANY,),
) -> Row:
    """Make a row that begins with `LEAD` and `labels`; `n` defaults to the most runs of a cell."""
    n = max((cell.n or 0 for cell in cells), default=0) if n is None else n
    return Row((*lead(study, entry, n), *map(words, labels), *cells), n, entry, under)


def depends_on_batch(study: StudyData, entry: Entry) -> bool:
    """Tell whether a suite saw a run's answer to an image depend on the rest of the batch."""
    return bool((study.final("depends_on_batch", entry) == 1).any())


def measured(study: StudyData, suite: str) -> list[Entry]:
    """Return the entries that a suite applies to, or none if it measured nothing."""
    if suite not in set(study.metrics["suite"]):
        return []
    return [entry for entry in study.entries if study.skipped(suite, entry) is None]


def measured_by(study: StudyData, suite: str) -> list[Entry]:
    """Return the entries that a suite applies to.

    Raises:
        Lacking: the suite measured nothing.
    """
    entries = measured(study, suite)
    if not entries:
        raise Lacking(why_unmeasured(study, suite))
    return entries


def require_asked(study: StudyData, suite: str) -> None:
    """Skip a part on a suite that the study did not request, so that it does not count as missing.

    Raises:
        Lacking: the suite was not requested.
    """
    if suite not in study.record.request.get("suites", {}):
        raise Lacking(f"suite {suite} was not asked for", fine=True)


def why_unmeasured(study: StudyData, suite: str) -> str:
    """Return why a suite measured nothing in the study."""
    reasons = (study.skipped(suite, entry) for entry in study.entries)
    reason = next(filter(None, reasons), None)
    return f"suite {suite}: {reason}" if reason else f"no finished trial was measured by {suite}"


def why_without(study: StudyData, suite: str, what: str) -> str:
    """Return why `what` cannot be shown: its suite measured nothing, or nothing of the kind."""
    if not measured(study, suite):
        return why_unmeasured(study, suite)
    return f"no finished trial has {what} (suite {suite})"
