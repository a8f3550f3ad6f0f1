"""The best of the runs beside their mean, as studies of specialization report (2302.14703)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from report.entries import Entry
from report.parts import Absent
from report.study import StudyData
from report.tables.cells import INTERVALS, LEAD, lead, measured, why_unmeasured
from report.tables.table import (
    MISSING,
    Cell,
    Column,
    Row,
    Table,
    assemble,
    summary,
    words,
)

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
    """A row for each router and condition that has several seeds."""
    entries = measured(study, "entropy")
    if not entries:
        return Absent(NAME, TITLE, why_unmeasured(study, "entropy"))
    rows = []
    for entry in entries:
        chosen = best_seed(study, entry)
        values = {
            column.key: _values(study, metric, entry, where) for metric, where, column in SHOWN
        }
        n = max(len(found) for found in values.values())
        cells = lead(study, entry, n)
        cells += [_of_seed(study, entry, found, chosen) for found in values.values()]
        cells += [
            summary(
                list(found), trials=study.behind(entry, found.index), confidence=study.confidence
            )
            for found in values.values()
        ]
        rows.append(Row(tuple(cells), n, entry))
    if all((row.n or 0) < 2 for row in rows):
        return Absent(NAME, TITLE, "one seed is its own best: ask for --seeds 2 or more")
    best = [_renamed(column, "best", n=1) for *_, column in SHOWN]
    mean = [_renamed(column, "mean") for *_, column in SHOWN]
    caption = CAPTION.format(intervals=INTERVALS)
    return assemble(NAME, TITLE, caption, (*LEAD, *best, *mean), rows)


def best_seed(study: StudyData, entry: Entry) -> int | None:
    """The seed whose last accuracy on the validation split is the highest; the first of several."""
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
