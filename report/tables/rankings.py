"""Rankings of the same runs by FLOPs, by seconds and by parameters, side by side."""

from __future__ import annotations

from report.budgets import Standing, flips, standings, why_not
from report.entries import Entry
from report.parts import Absent
from report.study import StudyData
from report.tables.cells import BEST, INTERVALS, LEAD, lead, metric_cell
from report.tables.table import MISSING, Cell, Column, Row, Table, assemble, summary, words
from report.timings import machine_names
from results.conditions import Condition
from results.statistics.fronts import ALIKE
from results.text import counted

NAME, TITLE = "rankings", "Rankings under three budgets"
COLUMNS = (
    Column("rank_flops", "rank by FLOPs", better="lower", digits=0),
    Column("top1_flops", "validation top-1 at equal FLOPs", "%", "higher", 100, 1, ranked=True),
    Column("rank_seconds", "rank by seconds", better="lower", digits=0),
    Column("top1_seconds", "at equal seconds", "%", "higher", 100, 1, ranked=True),
    Column("front_parameters", "front by parameters", better="lower", digits=0),
    Column("top1_end", "at the end", "%", "higher", 100, 1, ranked=True),
    Column("params_total", "params", si=True),
)


def table(study: StudyData) -> Table | Absent:
    """Under each condition a row for each of its routers."""
    found = {condition: standings(study, condition) for condition in study.conditions}
    if why := why_not([standing for each in found.values() for standing in each]):
        return Absent(NAME, TITLE, *why)
    rows = []
    for condition, of_condition in found.items():
        for entry in study.under(condition):
            cells = lead(study, entry, study.finished(entry))
            cells[1] = words(condition.label)
            cells += [c for standing in of_condition for c in _cells(study, standing, entry)]
            cells.append(metric_cell(study, "params_total", entry))
            rows.append(Row(tuple(cells), study.finished(entry), entry, (condition,)))
    return assemble(NAME, TITLE, _caption(study, found), (*LEAD, *COLUMNS), rows)


def _cells(study: StudyData, standing: Standing, entry: Entry) -> tuple[Cell, Cell]:
    """The rank and the accuracy that it is by."""
    if entry not in standing.ranks:
        return words(MISSING), words(MISSING)
    values = standing.accuracy[entry].dropna()
    trials = study.behind(entry, values.index)
    accuracy = summary(list(values), trials=trials, confidence=study.confidence)
    return Cell(standing.ranks[entry], n=accuracy.n, trials=trials), accuracy


def _caption(study: StudyData, found: dict[Condition, list[Standing]]) -> str:
    return " ".join(
        [
            "The same runs, cut. By FLOPs and by seconds: the mean validation accuracy where every "
            "run of the condition has come, read off each seed's curve, linearly between two "
            f"evaluations ({'; '.join(_where(study, c, f) for c, f in found.items())}). What was "
            "cut was not trained for that budget: its learning rate had not fallen to its end. "
            "Seconds are of training alone, with whatever else ran beside it. By parameters no "
            "run can be cut: a front holds those of which none is more accurate at the end with "
            f"no more parameters, or as accurate with fewer (by more than {100 * ALIKE:g} %). "
            f"{INTERVALS} {BEST}",
            *(_sentence(condition, standing) for condition, standing in found.items()),
        ]
    )


def _where(study: StudyData, condition: Condition, found: list[Standing]) -> str:
    """The budgets of a condition: where its curves are cut."""
    by_flops, by_seconds, _ = found
    if by_flops.cut is None or by_seconds.cut is None:
        return f"{condition or 'here'}: no curve"
    machine = machine_names(study)[by_seconds.machine]
    told = f"{by_flops.cut:.3g} FLOPs, {by_seconds.cut:.3g} s on {machine}"
    return f"{condition}: {told}" if condition else told


def _sentence(condition: Condition, found: list[Standing]) -> str:
    """Which pairs change their order between budgets."""
    under = f"Under {condition}, b" if condition else "B"
    turned = flips(found)
    if not turned:
        return f"{under}etween these budgets no pair changes its order."
    return (
        f"{under}etween these budgets the order of {counted(len(turned), 'pair')} changes, by "
        f"their means, resolved or not: {'; '.join(turned)}."
    )
