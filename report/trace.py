"""Where a printed number comes from: the trials behind it, and what each of them gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from report.numbers import Number, find
from report.study import StudyData
from report.tables import make_tables
from report.tables.table import Table
from report.undone import in_words, text_of
from results import Store
from results.frames import trials_frame

COLUMNS = {
    "router": "router",
    "condition": "condition",
    "seed": "seed",
    "machine": "machine_name",
    "code": "code",
    "log": "log",
    "checkpoint": "checkpoint",
}
"""Of each field of a source, the column of a frame that it is in."""
GONE = "not in this database"


@dataclass(frozen=True)
class Source:
    """A trial, or a bare layer that was timed. `value`: what it gave; "" where it is one of many.

    `log` and `checkpoint` are named from the home folder; what is not known is "".
    """

    trial: str
    router: str
    condition: str
    seed: str
    status: str
    value: str
    machine: str
    code: str
    log: str
    checkpoint: str


@dataclass(frozen=True)
class Trace:
    """A printed number and all that it comes from."""

    number: Number
    sources: tuple[Source, ...]


def trace(store: Store, study: StudyData, table: str, row: str, column: str) -> Trace:
    """Trace a number of a study's report.

    Args:
        store: where the study is from; what found its settings was trained outside of it.
        table: its name, as that of its files.
        row: words that only its row has, such as the router and the condition.
        column: its key or its heading.

    Raises:
        StoreError: there is no such number, or there are several.
    """
    tables = [each for each in make_tables(study) if isinstance(each, Table)]
    number = find(tables, table, row, column)
    return Trace(number, tuple(_sources(store, study, number)))


def _sources(store: Store, study: StudyData, number: Number) -> Iterator[Source]:
    cell = number.cell
    layers = study.measurements[study.measurements["attempt"].isna()]
    frames = [layers, study.trials]
    if not set(cell.trials) <= {trial for frame in frames for trial in frame["trial"]}:
        frames.insert(0, trials_frame(store, history=True))
    rows = {row.trial: row for frame in frames for row in frame.itertuples()}
    known = len(cell.values) == len(cell.trials)
    for place, trial in enumerate(cell.trials):
        row = rows.get(trial)
        told = {name: text_of(getattr(row, column, None)) for name, column in COLUMNS.items()}
        value = number.column.number(cell.values[place]) if known else ""
        status = GONE if row is None else in_words(str(row.status))
        yield Source(trial, status=status, value=value, **told)
