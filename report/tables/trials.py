"""What was run: every trial, and what failed of trials and measurements."""

from __future__ import annotations

from typing import Any

import pandas as pd

from report.parts import Absent
from report.study import StudyData
from report.tables.table import MISSING, Cell, Column, Row, Table, assemble, words

UNTOLD = {"waiting": "not run yet", "running": "still running, or cut off"}
SHORT = 12
"""Characters of a fingerprint that tell trials apart."""


def failures(study: StudyData) -> Table | Absent:
    """A row for each trial that did not finish and each measurement that failed."""
    name, title = "failures", "What failed, or is not done"
    trials = study.trials[study.trials["status"] != "done"]
    failed = study.measurements[study.measurements["status"] == "failed"]
    rows = [_failure("training", row) for row in trials.itertuples()]
    rows += [_failure(f"suite {row.suite}", row) for row in failed.itertuples()]
    if not rows:
        return Absent(name, title, "every trial and every measurement is done", fine=True)
    heads = ("router", "condition", "seed", "what", "status", "reason", "machine", "trial", "log")
    columns = [Column(head, head, words=True) for head in heads]
    caption = (
        "Trials that are not done and measurements that failed, each with the first line of its "
        "reason. Their numbers are in no mean; the other tables say how many seeds are left."
    )
    return assemble(name, title, caption, columns, rows)


def trials(study: StudyData) -> Table | Absent:
    """A row for each trial, whatever became of it."""
    name, title = "trials", "Every trial"
    if study.trials.empty:
        return Absent(name, title, "the study has no trials")
    numbers = (
        Column("top1", "top-1", "%", scale=100, n=1),
        Column("flops", "FLOPs", "FLOP", si=True, n=1),
        Column("steps", "steps", digits=0, n=1),
        Column("seconds", "time", "s", digits=1, n=1),
    )
    heads = ("router", "condition", "seed", "status")
    tails = ("machine", "code", "trial")
    columns = [Column(head, head, words=True) for head in heads]
    columns += [*numbers, *(Column(tail, tail, words=True) for tail in tails)]
    top1 = study.metrics[study.metrics["metric"] == "top1"].set_index("trial")["value"]
    rows = []
    for row in study.trials.itertuples():
        values = (top1.get(row.trial), row.flops, row.steps, row.seconds)
        told = (row.machine_name, row.code, row.trial[:SHORT])
        cells = [
            *(words(_text(value)) for value in (row.router, row.condition, row.seed, row.status)),
            *(_number(value) for value in values),
            *(words(_text(value)) for value in told),
        ]
        rows.append(Row(tuple(cells), 1, row.router))
    return assemble(name, title, "One row a trial, n = 1 each.", columns, rows)


def _failure(what: str, row: Any) -> Row:
    lines = (row.error or "").strip().splitlines()
    reason = lines[0] if lines else UNTOLD.get(row.status, "no reason was recorded")
    told = (row.router, row.condition, row.seed, what, row.status, reason, row.machine_name)
    cells = [*map(_text, told), row.trial[:SHORT], _text(getattr(row, "log", None))]
    return Row(tuple(words(cell) for cell in cells), 1, row.router)


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _number(value: Any) -> Cell:
    text = _text(value)
    return Cell(float(text), n=1) if text else words(MISSING)
