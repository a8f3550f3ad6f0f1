"""What was run: every trial, and what failed of trials and measurements."""

from __future__ import annotations

from typing import Any

import pandas as pd

from report.entries import Entry
from report.parts import Absent
from report.study import StudyData
from report.tables.table import OLDER, Cell, Column, Row, Table, assemble, summary, words
from report.undone import Undone, in_words, text_of, undone
from results.older import older_sentence

SHORT = 12
"""Characters of a fingerprint that tell trials apart."""


def failures(study: StudyData) -> Table | Absent:
    """A row for each trial that is not done and each measurement that failed."""
    name, title = "failures", "What failed, or is not done"
    found = undone(study)
    if not found:
        return Absent(name, title, "every trial and every measurement is done", fine=True)
    heads = ("router", "condition", "seed", "what", "status", "reason", "note", "machine", "trial")
    columns = [Column(head, head, words=True) for head in (*heads, "log")]
    caption = (
        "Trials that are not done and measurements that failed, each with the first line of its "
        "reason. Their numbers are in no mean; the other tables say how many seeds are left."
    )
    return assemble(name, title, caption, columns, map(_failure, found))


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
    tails = ("note", "machine", "code", "trial", "log")
    columns = [Column(head, head, words=True) for head in heads]
    columns += [*numbers, *(Column(tail, tail, words=True) for tail in tails)]
    top1 = _top1(study)
    rows = []
    for row in study.trials.itertuples():
        values = (top1.get(row.trial), row.flops, row.steps, row.seconds)
        told = (row.note, row.machine_name, row.code)
        cells = [
            words(row.router, *([OLDER] if row.older else [])),
            *(words(text_of(value)) for value in (row.condition, row.seed)),
            words(in_words(row.status)),
            *(_number(value, row.trial) for value in values),
            *(words(text_of(value)) for value in told),
            words(row.trial[:SHORT], trials=[row.trial]),
            words(text_of(row.log)),
        ]
        rows.append(Row(tuple(cells), 1, Entry(row.router, row.condition)))
    older = older_sentence(study.trials)
    caption = "One row a trial, n = 1 each." + (f" {OLDER} {older}" if older else "")
    return assemble(name, title, caption, columns, rows)


def layers(study: StudyData) -> Table | Absent:
    """A row for each bare layer on each machine that timed it."""
    name, title = "layers", "Every bare layer"
    timed = study.measurements[study.measurements["attempt"].isna()]
    if timed.empty:
        return Absent(name, title, "no bare layer was asked for", fine=True)
    heads = ("router", "condition", "suite", "status", "machine", "code")
    columns = [Column(head, head, words=True) for head in heads]
    columns += [Column("seconds", "time", "s", digits=1, n=1), Column("layer", "layer", words=True)]
    rows = []
    for row in timed.itertuples():
        told = (row.router, row.condition, row.suite, in_words(row.status))
        cells = [words(text_of(value)) for value in (*told, row.machine_name, row.code)]
        cells += [_number(row.seconds, row.trial), words(row.trial[:SHORT], trials=[row.trial])]
        rows.append(Row(tuple(cells), 1, Entry(row.router, row.condition)))
    caption = "Layers that no training made: one row a measurement, n = 1 each."
    return assemble(name, title, caption, columns, rows)


def _failure(found: Undone) -> Row:
    cells = (
        *(found.entry.router, found.entry.condition.label, found.seed, found.what, found.status),
        *(found.reason, found.note, found.machine, found.trial[:SHORT], found.log),
    )
    return Row(tuple(map(words, cells)), 1, found.entry)


def _number(value: Any, trial: str) -> Cell:
    text = text_of(value)
    return summary([float(text)] if text else [], trials=[trial])


def _top1(study: StudyData) -> pd.Series:
    """Accuracy on the test split at the end, by trial."""
    of = study.metrics
    end = of["layer"].isna() & of["step"].isna()
    found = of[(of["suite"] == "accuracy") & (of["metric"] == "top1") & end]
    return found.drop_duplicates("trial", keep="last").set_index("trial")["value"]
