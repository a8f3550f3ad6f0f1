"""Columns that say by how much each router beats each null."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from report.comparisons import Comparison, missing_nulls, nulls
from report.conditions import Entry
from report.study import StudyData
from report.table import MISSING, SEVERAL, Cell, Column, words


def columns(study: StudyData) -> list[Column]:
    """One for each null of the study."""
    return [Column(f"over_{name}", f"over {name}", "points", scale=100) for name in nulls(study)]


def cells(study: StudyData, found: Sequence[Comparison], entry: Entry) -> list[Cell]:
    """The paired difference of a router to each null; nothing for a null itself."""
    by_null: dict[str, dict[Entry, Comparison]] = defaultdict(dict)
    for comparison in found:
        if comparison.entry == entry:
            by_null[comparison.reference.router][comparison.reference] = comparison
    return [_cell(study, list(by_null[name].values()), entry) for name in nulls(study)]


def caption(study: StudyData) -> str:
    """What the columns are, and which nulls are missing."""
    names = nulls(study)
    what = (
        f"Over {', '.join(names)}: mean paired difference in top-1 over the seeds that both have, "
        "± half of its 95 % interval (tests: paired differences to the nulls)."
    )
    return " ".join(filter(None, (what if names else "", missing(study))))


def missing(study: StudyData) -> str:
    """Which of the usual nulls a study lacks, and how to add them; "" where it has all."""
    lacking = missing_nulls(study)
    if not lacking:
        return ""
    return f"Without {', '.join(lacking)}: add them to the preset or in --routers."


def _cell(study: StudyData, compared: Sequence[Comparison], entry: Entry) -> Cell:
    """The difference; none where a router without a swept setting has several of a null."""
    if len(compared) > 1:
        return words(SEVERAL)
    if not compared or compared[0].difference is None:
        return words("" if study.is_baseline(entry.router) else MISSING)
    (comparison,), found = compared, compared[0].difference
    return Cell(found.mean, found.low, found.high, found.n, trials=comparison.trials(study))
