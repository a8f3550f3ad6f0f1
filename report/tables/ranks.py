"""Average ranks over conditions, with Friedman's and Nemenyi's tests."""

from __future__ import annotations

from report.parts import Absent
from report.standings import standings, why_not
from report.study import StudyData
from report.tables.table import Cell, Column, Row, Table, assemble, words
from results.statistics import ALPHA
from results.statistics.ranks import Ranking, ranking

NAME, TITLE = "ranks", "Average ranks over conditions"


def table(study: StudyData) -> Table | Absent:
    """A row for each router that has results under every condition, the best rank first."""
    values = standings(study)
    if why := why_not(values):
        return Absent(NAME, TITLE, why, fine=True)
    found = ranking(values)
    columns = [Column("router", "router", words=True), Column("rank", "average rank", "", "lower")]
    columns += [
        Column(f"p_{name}", f"p, {name}", digits=3, p_value=True) for name in found.ranks.index
    ]
    rows = []
    for name, rank in found.ranks.items():
        entries = [study.entry(name, condition) for condition in study.conditions]
        trials = tuple(t for e in entries if e is not None for t in study.trials_of(e)["trial"])
        others = [
            words("") if other == name else Cell(float(found.pairs.loc[name, other]), trials=trials)
            for other in found.ranks.index
        ]
        rows.append(Row((words(name), Cell(rank, trials=trials), *others), None, entries[0]))
    return assemble(NAME, TITLE, _caption(found, study), columns, rows)


def _caption(found: Ranking, study: StudyData) -> str:
    out = [name for name in study.routers if name not in found.ranks.index]
    left = (
        f" Not ranked, for want of runs of their own under each: {', '.join(out)}." if out else ""
    )
    return (
        f"Ranks by mean top-1 within each of {found.blocks} conditions, 1 is best, ties share "
        f"theirs. {verdict(found)} p: Nemenyi's test of each pair. Conditions that share a data "
        f"set or seeds are not independent, so these p-values are lower than they should be.{left}"
    )


def verdict(found: Ranking) -> str:
    """What Friedman's test says, in a sentence, and from where on two ranks differ."""
    systems = len(found.ranks)
    differ = "differ" if found.f_p < ALPHA else "are not shown to differ"
    return (
        f"The routers {differ}: Friedman's χ²({systems - 1}) = {found.chi_squared:.2f}, p = "
        f"{found.chi_squared_p:.3g}; Iman and Davenport's F({systems - 1}, "
        f"{(systems - 1) * (found.blocks - 1)}) = {found.f:.2f}, p = {found.f_p:.3g}. Average "
        f"ranks further apart than the critical difference {found.critical_difference:.2f} differ "
        f"(Nemenyi, {ALPHA})."
    )
