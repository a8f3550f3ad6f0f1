"""How many seeds would resolve what is not resolved, between routers next to each other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from report.comparisons import METRIC, Comparison, comparisons
from report.parts import Absent
from report.study import StudyData
from report.tables.table import MISSING, Cell, Column, Row, Table, assemble, words
from results.conditions import Condition
from results.statistics import ALPHA, seeds_needed

NAME, TITLE = "seeds", "Seeds that would resolve a gap"
MANY = 1000
"""More seeds than anybody trains are not counted out."""

COLUMNS = (
    Column("router", "router", words=True),
    Column("condition", "condition", words=True),
    Column("reference", "the next below", words=True),
    Column("n", "pairs", words=True),
    Column("gap", "gap in top-1", "points", scale=100),
    Column("deviation", "SD of differences", "points", scale=100),
    Column("alone", "seeds, one test", words=True),
    Column("family", "seeds, corrected", words=True),
    Column("verdict", "verdict", words=True),
)
CAPTION = (
    "Routers by mean top-1, each with the next below it. The number of seeds at which a two-sided "
    "paired t test finds a gap of this size with a probability of 80 %, were the observed mean and "
    f"standard deviation of the paired differences the true ones: of one test at {ALPHA}, and at "
    f"{ALPHA} over the number of tests of the family{{looks}}, with which Holm's correction "
    "begins. Of few pairs the deviation is itself uncertain, and so is the number."
)


def table(study: StudyData) -> Table | Absent:
    """A row for each two neighbours under each condition."""
    found = [c for condition in study.conditions for c in neighbours(study, condition)]
    if not any(len(c.seeds) > 1 for c in found):
        return Absent(NAME, TITLE, "no two routers have two seeds in common")
    looks = "" if study.planned_looks == 1 else f" and {study.planned_looks} looks"
    return assemble(
        NAME, TITLE, CAPTION.format(looks=looks), COLUMNS, [_row(study, c) for c in found]
    )


def neighbours(study: StudyData, condition: Condition) -> list[Comparison]:
    """Each router less the next below it by mean accuracy, nulls apart; the best first."""
    found = {(c.entry, c.reference): c for c in comparisons(study) if c.condition == condition}
    entries = [e for e in study.under(condition) if not study.is_baseline(e.router)]
    measured = [entry for entry in entries if len(study.final(METRIC, entry))]
    ordered = sorted(measured, key=lambda e: study.final(METRIC, e).mean(), reverse=True)
    return [
        found[pair] if pair in found else found[pair[::-1]].turned() for pair in pairwise(ordered)
    ]


def _row(study: StudyData, comparison: Comparison) -> Row:
    difference, trials = comparison.difference, comparison.trials(study)
    n = difference.n if difference else 0
    names = comparison.entry.router, comparison.condition.label, comparison.reference.router, str(n)
    deviation = float(np.std(comparison.differences, ddof=1)) if n > 1 else None
    numbers = [
        words(MISSING) if value is None else Cell(value, n=n, trials=trials)
        for value in (difference.mean if difference else None, deviation)
    ]
    corrected = max(comparison.family, 1) * study.planned_looks
    counts = [words(_told(comparison, ALPHA / tests), trials=trials) for tests in (1, corrected)]
    told = (*map(words, names), *numbers, *counts, words(comparison.verdict))
    return Row(told, n, comparison.entry, (comparison.condition,))


def _told(comparison: Comparison, alpha: float) -> str:
    needed = seeds_needed(comparison.differences, alpha=alpha)
    if needed is None:
        return MISSING
    return str(needed) if needed <= MANY else f"> {MANY:,}"
