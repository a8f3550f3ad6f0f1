"""Paired differences in test accuracy, to `dense` and to the best router."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from report.comparisons import ALPHA, Comparison, against_best, against_dense
from report.parts import Absent
from report.study import StudyData
from report.tables.table import MISSING, Cell, Column, Row, Table, assemble, words

COLUMNS = (
    Column("router", "router", words=True),
    Column("condition", "condition", words=True),
    Column("reference", "reference", words=True),
    Column("n", "pairs", words=True),
    Column("difference", "difference in top-1", "points", scale=100),
    Column("correlation", "correlation"),
    Column("p", "p", digits=3, p_value=True),
    Column("p_holm", "p (Holm)", digits=3, p_value=True),
    Column("verdict", "verdict", words=True),
)


def to_dense(study: StudyData) -> Table | Absent:
    """How much better than no MoE at all."""
    name, title = "differences_dense", "Paired differences to dense"
    return _table(name, title, against_dense(study), "the study has no router and dense to compare")


def to_best(study: StudyData) -> Table | Absent:
    """How far behind the best router."""
    name, title = "differences_best", "Paired differences to the best router"
    note = (
        " The reference was chosen after seeing the results, which flatters it: its lead over the "
        "others is the largest that chance and truth together gave."
    )
    return _table(name, title, against_best(study), "there is no second router to compare", note)


def _table(
    name: str, title: str, found: Sequence[Comparison], without: str, note: str = ""
) -> Table | Absent:
    if not found:
        return Absent(name, title, without)
    return assemble(name, title, _caption(found) + note, COLUMNS, [_row(c) for c in found])


def _row(comparison: Comparison) -> Row:
    entry, reference = comparison.entry, comparison.reference
    difference = comparison.difference
    n = difference.n if difference else 0
    head = [words(entry.router), words(entry.condition), words(reference.router), words(str(n))]
    if difference is None:
        numbers = [words(MISSING)] * 4
    else:
        numbers = [Cell(difference.mean, difference.low, difference.high, n)]
        others = (difference.correlation, difference.p_value, comparison.adjusted)
        numbers += [words(MISSING) if value is None else Cell(value, n=n) for value in others]
    return Row((*head, *numbers, words(comparison.verdict)), n, entry)


def _caption(found: Sequence[Comparison]) -> str:
    tests = sum(comparison.adjusted is not None for comparison in found)
    return (
        "Mean over the seeds that both have of router less reference, in percentage points of "
        "top-1, ± half the width of its 95 % Student t interval; two-sided paired t test; Holm's "
        f"correction over the {tests} tests of this table; resolved: adjusted p < {ALPHA}. "
        + sentence_on_n(found)
    )


def sentence_on_n(found: Sequence[Comparison]) -> str:
    """What a reader may expect of tests with so few seeds."""
    differences = [c.difference for c in found if c.difference]
    halves = [(d.high - d.low) / 2 for d in differences if d.low is not None and d.high is not None]
    pairs = sorted({difference.n for difference in differences})
    if not halves:
        return "With one seed there is no interval and no test: nothing here is resolved."
    told = f"n = {pairs[0]}" if len(pairs) == 1 else f"n from {pairs[0]} to {pairs[-1]}"
    few = ": too few seeds to resolve small differences" if pairs[-1] < 5 else ""
    return f"With {told}, these intervals are ± {100 * median(halves):.2f} points (median){few}."
