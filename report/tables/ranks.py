"""Average ranks over conditions, with Friedman's and Nemenyi's tests."""

from __future__ import annotations

from report.comparisons import METRIC
from report.entries import Entry
from report.parts import Absent
from report.standings import standings, why_not
from report.study import StudyData
from report.tables.table import Cell, Column, Row, Table, assemble, words
from results.statistics import ALPHA
from results.statistics.ranks import Ranking, ranking

NAME, TITLE = "ranks", "Average ranks over conditions"
COLUMNS = (
    Column("router", "router", words=True),
    Column("rank", "average rank", better="lower"),
    Column("apart", "differs from", words=True),
)


def table(study: StudyData) -> Table | Absent:
    """A row for each router that has results under every condition, the best rank first."""
    values = standings(study)
    if why := why_not(values):
        return Absent(NAME, TITLE, why, fine=True)
    found = ranking(values)
    rows = []
    for name, rank in found.ranks.items():
        entries = [study.entry(name, condition) for condition in study.conditions]
        trials = tuple(t for entry in entries for t in _trials(study, entry))
        apart = [other for other in found.ranks.index if found.pairs.loc[name, other] < ALPHA]
        told = words(", ".join(apart) or "none", trials=trials)
        average = Cell(rank, n=found.blocks, trials=trials)
        rows.append(Row((words(name), average, told), found.blocks, entries[0]))
    return assemble(NAME, TITLE, _caption(found, study), COLUMNS, rows)


def _trials(study: StudyData, entry: Entry | None) -> tuple[str, ...]:
    return study.behind(entry, study.final(METRIC, entry).index)


def _caption(found: Ranking, study: StudyData) -> str:
    out = [name for name in study.routers if name not in found.ranks.index]
    left = (
        f" Not ranked, for want of runs of their own under each: {', '.join(out)}." if out else ""
    )
    return (
        f"Ranks by mean top-1 within each of {found.blocks} conditions, 1 is best, ties share "
        f"theirs. {verdict(found)} Conditions that share a data "
        f"set or seeds are not independent, so these p-values are lower than they should be.{left}"
    )


def verdict(found: Ranking) -> str:
    """What Friedman's test says, in a sentence, and from where on two ranks differ."""
    systems = len(found.ranks)
    differ = "differ" if found.f_p < ALPHA else "are not shown to differ"
    chi_squared, f = f"{found.chi_squared:.2f}", f"{found.f:.2f}"
    return (
        f"The routers {differ}: Friedman's chi-squared({systems - 1}) = {chi_squared}, p = "
        f"{found.chi_squared_p:.3g}; Iman and Davenport's F({systems - 1}, "
        f"{(systems - 1) * (found.blocks - 1)}) = {f}, p = {found.f_p:.3g}. Average ranks further "
        f"apart than the critical difference {found.critical_difference:.2f} differ (Nemenyi, "
        f"{ALPHA})."
    )
