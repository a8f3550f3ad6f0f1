"""The printed numbers of a report, kept in `numbers.json`, and the trials behind each."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from report.claims import Claim
from report.render import cell_parts
from report.study import StudyData
from report.table import Cell, Column, Table
from report.topics import make_tables
from report.topics.trials import readable_status, text_of
from results import Store, StoreError
from results.conditions import router_label
from results.frames import trials_frame
from results.groups import grouped
from results.text import nearest

FILE = "numbers.json"
NAMELESS = ("n", "status", "claim", "verdict")
"""Columns of words that are not part of a row's name."""
MOST = 8
"""How many rows an error lists at most."""


@dataclass(frozen=True)
class Number:
    """A printed number and its place; `shown` is its text with its unit: `81.2 ± 0.4 %`."""

    table: Table
    row: str
    column: Column
    cell: Cell
    shown: str

    @property
    def label(self) -> str:
        """The place of the number, such as `main, soft_moe, top-1`."""
        return ", ".join(filter(None, (self.table.name, self.row, self.column.label)))


@dataclass(frozen=True)
class Printed:
    """The numbers of a written report: all of its tables, as they were made.

    Attributes:
        texts: sentences about numbers outside of tables, by place.
        files: SHA-256 (hex) of each file of the report, by its path in the folder.
        claims: the user's own claims that were tested.
    """

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")  # a loss may be infinite

    study: str
    tables: tuple[Table, ...]
    texts: dict[str, str]
    files: dict[str, str]
    claims: tuple[Claim, ...] = ()


def numbers(table: Table) -> Iterator[Number]:
    """Yield every number and every count of trials of a table, row by row."""
    return (each for each in cells(table) if each.cell.value is not None or each.cell.trials)


def cells(table: Table) -> Iterator[Number]:
    """Yield every cell of a table, numbers and words alike."""
    for label, row in zip(row_names(table), table.rows, strict=True):
        for column, cell in zip(table.columns, row.cells, strict=True):
            text = "".join(cell_parts(column, cell, row))
            unit = f" {column.unit}" if column.unit and cell.value is not None else ""
            yield Number(table, label, column, cell, text + unit)


def row_names(table: Table) -> list[str]:
    """Name each row by its words before the first number, and number rows with the same words."""
    columns = table.columns
    first = next((i for i, column in enumerate(columns) if not column.words), len(columns))
    naming = [i for i in range(first) if columns[i].key not in NAMELESS]
    seen: Counter[str] = Counter()
    names = []
    for row in table.rows:
        name = " ".join(filter(None, (row.cells[i].words for i in naming)))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def to_json(printed: Printed) -> bytes:
    """Return the numbers as JSON that `from_json` reads."""
    return TypeAdapter(Printed).dump_json(printed, exclude_defaults=True)


class UnreadableReport(StoreError):
    """Raised if a report's numbers are damaged or were written by another version of the bench."""

    exit_status = 1


def from_json(folder: Path) -> Printed:
    """Return the numbers of the report in a folder.

    Raises:
        StoreError: the folder has none.
        UnreadableReport: they are damaged, or another version of the bench wrote them.
    """
    file = folder / FILE
    if not file.is_file():
        hint = "" if folder.is_dir() else ", which is not there"
        raise StoreError(f"no {FILE} in {folder}{hint}: is it the folder of a report?")
    content = file.read_bytes()
    try:
        return TypeAdapter(Printed).validate_json(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        why, study = "it is damaged", ""
        if wrong["type"] != "json_invalid":
            why, printed = "another version of the bench wrote it", json.loads(content)
            study = str(printed.get("study") or "") if isinstance(printed, dict) else ""
        place = ".".join(map(str, wrong["loc"]))
        which = ["--study", study] if study else []
        command = shlex.join(["python", "bench.py", "report", *which, "--out", str(folder)])
        raise UnreadableReport(
            f"{file} cannot be read ({': '.join(filter(None, (place, wrong['msg'])))}): {why}; "
            f"write the report again: {command}"
        ) from error


def find(tables: Sequence[Table], table: str, row: str, column: str) -> Number:
    """Find a number by its table's name, words of its row, and its column's key or heading.

    Raises:
        StoreError: none or several match; the message lists them or suggests the nearest name.
    """
    by_name = {each.name: each for each in tables}
    if table not in by_name:
        raise StoreError(f"no table {table!r} in this report{nearest(table, by_name)}")
    rows = grouped((number.row, number) for number in numbers(by_name[table]))
    own = rows[_row(table, row, rows)]
    keys = [number.column.key for number in own]
    if column in keys:
        return own[keys.index(column)]
    having = [n for n in own if column in (n.column.label, n.column.heading)]
    if not having:
        raise StoreError(f"no number {column!r} in that row of {table}{nearest(column, keys)}")
    if len(having) > 1:
        listed = ", ".join(number.column.key for number in having)
        raise StoreError(f"{len(having)} columns of table {table} are headed {column!r}: {listed}")
    return having[0]


def _row(table: str, asked: str, rows: Iterable[str]) -> str:
    """Return the row of this name, or the only one that has all of these words."""
    names = list(rows)
    if asked in names:
        return asked
    having = [name for name in names if set(asked.split()) <= set(name.split())]
    if len(having) == 1:
        return having[0]
    if not having:
        raise StoreError(f"no row {asked!r} in table {table}{nearest(asked, names)}")
    listed = "; ".join(having[:MOST]) + (" …" if len(having) > MOST else "")
    raise StoreError(f"{len(having)} rows of table {table} have {asked!r}: {listed}")


@dataclass(frozen=True)
class Source:
    """A trial or a timed bare layer. `value`: its own value; "" if it did not give just one.

    `log` and `checkpoint` are relative to the home folder; what is unknown is "".
    """

    trial: str
    router: str
    status: str
    value: str
    machine: str
    condition: str
    seed: str
    code: str
    log: str
    checkpoint: str


COLUMNS = ("condition", "seed", "code", "log", "checkpoint")
"""The fields of a source that the frames of a study have under the same names."""


@dataclass(frozen=True)
class Trace:
    """A printed number and all its sources."""

    number: Number
    sources: tuple[Source, ...]


def trace(store: Store, study: StudyData, table: str, row: str, column: str) -> Trace:
    """Trace a number of a study's report to its trials and timed layers.

    Args:
        store: the study's database; the trials of a tuning are not in `study`.
        table: its name, which is that of its files.
        row: words that only its row has, such as the router (by either name) and the condition.
        column: its key or its heading.

    Raises:
        StoreError: there is no such number, or there are several.
    """
    displays = {system.router: system.display or system.router for system in study.systems}
    row = " ".join(displays.get(word, word) for word in row.split())
    number = find([t for t in make_tables(study) if isinstance(t, Table)], table, row, column)
    cell = number.cell
    layers = study.measurements[study.measurements["attempt"].isna()]
    frames = [layers, study.trials]
    if not set(cell.trials) <= {trial for frame in frames for trial in frame["trial"]}:
        frames.insert(0, trials_frame(store, history=True))
    rows = {each.trial: each for frame in frames for each in frame.itertuples()}
    values = map(number.column.number, cell.values) if len(cell.values) == len(cell.trials) else ()
    sources = []
    for trial, value in zip_longest(cell.trials, values, fillvalue=""):
        source = rows.get(trial)
        entry = getattr(source, "entry", None)  # only a trial of the study has one
        router = router_label(source.router, source.aa_replicate) if source else ""
        router = entry.label if entry else router
        status = readable_status(str(source.status)) if source else "not in this database"
        known = {name: text_of(getattr(source, name, None)) for name in COLUMNS}
        machine = text_of(getattr(source, "machine_name", None))
        sources.append(Source(trial, router, status, value, machine, **known))
    return Trace(number, tuple(sources))
