"""Where a printed number comes from: the trials behind it, and what each of them gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from report.numbers import Number, find
from report.study import StudyData
from report.tables import make_tables
from report.tables.table import Table
from report.undone import in_words, text_of


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


def trace(study: StudyData, table: str, row: str, column: str) -> Trace:
    """Trace a number of a study's report.

    Args:
        table: its name, as that of its files.
        row: words that only its row has, such as the router and the condition.
        column: its key or its heading.

    Raises:
        StoreError: there is no such number, or there are several.
    """
    tables = [each for each in make_tables(study) if isinstance(each, Table)]
    number = find(tables, table, row, column)
    return Trace(number, tuple(_sources(study, number)))


def _sources(study: StudyData, number: Number) -> Iterator[Source]:
    cell = number.cell
    layers = study.measurements[study.measurements["attempt"].isna()]
    rows: dict[str, Any] = {
        row.trial: row for frame in (layers, study.trials) for row in frame.itertuples()
    }
    known = len(cell.values) == len(cell.trials)
    for place, trial in enumerate(cell.trials):
        row = rows[trial]
        yield Source(
            trial=trial,
            router=row.router,
            condition=row.condition,
            seed=text_of(row.seed),
            status=in_words(row.status),
            value=number.column.number(cell.values[place]) if known else "",
            machine=text_of(row.machine_name),
            code=text_of(row.code),
            log=text_of(getattr(row, "log", None)),
            checkpoint=text_of(getattr(row, "checkpoint", None)),
        )
