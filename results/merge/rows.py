"""Copying of rows from one database into another; content, not ids, identifies a row.

A row that is in both is kept once. It keeps the earlier of the times at which it was first seen,
and the later of those at which it was last requested, so the order of merging does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    RowMapping,
    Table,
    column,
    insert,
    select,
    table,
    type_coerce,
    update,
)
from sqlalchemy.orm import Session

from results.columns import Base, Npy
from results.connect import chunks
from results.store.records import UNFINISHED
from results.text import StoreError, to_json

TABLES = Base.metadata.tables
PARTS = ("metrics", "arrays")
"""Tables whose rows belong to one measurement and are copied with it."""
SEVERAL = 2000
"""Number of metrics or arrays held in memory at once."""

Values = dict[str, Any]
Change = Callable[[Values], Values]


@dataclass(frozen=True)
class Identity:
    """The columns that identify a table's rows in every database.

    Attributes:
        columns: two rows that agree in all of these are one; ids are first mapped to the target's.
        earliest: a time whose earlier value is kept.
        latest: a time whose later value is kept, followed by the columns that go with it.
        complete: which rows are copied; None for all. Rows that belong to others are left out too.
    """

    table: str
    columns: tuple[str, ...]
    earliest: str | None = None
    latest: tuple[str, ...] = ()
    complete: ColumnElement[bool] | None = None


_ATTEMPT, _RUN = TABLES["attempts"].c, TABLES["runs"].c
IDENTITIES = (
    Identity("machines", ("hash",), "first_seen"),
    Identity("code_versions", ("hash",), "first_seen"),
    Identity("components", ("hash",), "first_seen"),
    Identity("studies", ("name",), "created_at", ("requested_at", "request")),
    Identity("trials", ("fingerprint",), "created_at"),
    Identity("layers", ("fingerprint",), "created_at"),
    Identity("trial_components", ("trial_id", "component_id")),
    Identity("layer_components", ("layer_id", "component_id")),
    Identity("study_trials", ("study_id", "trial_id"), latest=("requested_at",)),
    Identity("study_layers", ("study_id", "layer_id"), latest=("requested_at",)),
    Identity(
        "runs",
        ("study_id", "host", "pid", "process_started", "started_at"),
        complete=_RUN.finished_at.is_not(None),
    ),
    Identity(
        "attempts",
        ("trial_id", "machine_id", "started_at", "finished_at", "status"),
        complete=_ATTEMPT.status.not_in(UNFINISHED),
    ),
    Identity(
        "measurements",
        (
            *("attempt_id", "layer_id", "machine_id", "code_id"),
            *("suite", "options", "source_hash", "status", "measured_at"),
        ),
    ),
)
"""In copying order: a row comes after those that it refers to. Leases are never copied."""


@dataclass
class RowCopy:
    """One copy operation, within a transaction of each database.

    Attributes:
        changes: functions that change new rows, by table.
        added: number of new rows by table.
        updated: number of rows whose times were changed.
        ids: the target's id of each of the source's rows, by table.
        left_out: ids of the source's rows that are not copied, by table.
    """

    source: Session
    target: Session
    changes: Mapping[str, Change] = field(default_factory=dict)
    added: Counter[str] = field(default_factory=Counter)
    updated: int = 0
    ids: dict[str, dict[int, int]] = field(default_factory=dict)
    left_out: dict[str, set[int]] = field(default_factory=dict)

    def run(self) -> None:
        """Copy everything.

        Raises:
            StoreError: a row of the source refers to a missing row.
        """
        for identity in IDENTITIES:
            added = self._table(identity)
        for name in PARTS:  # parts of the measurements, which were copied last
            self._parts(name, added)

    def _table(self, identity: Identity) -> dict[int, int]:
        """Copy a table; return the new rows' ids by their ids in the source."""
        name, made = identity.table, TABLES[identity.table]
        ids, left_out = self.ids.setdefault(name, {}), self.left_out.setdefault(name, set())
        change = self.changes.get(name, lambda values: values)
        compared = {
            *identity.columns,
            *identity.latest,
            identity.earliest,
            *made.primary_key.c.keys(),
        }
        columns = [each for each in made.c if each.name in compared]
        rows = self.target.execute(select(*columns)).mappings()
        known = {_key(identity, dict(row)): row for row in rows}
        # Parents of trials have smaller ids than their children.
        query = select(made).order_by(*made.primary_key)
        if identity.complete is not None:
            query = query.add_columns(identity.complete.label("complete"))
        added: dict[int, int] = {}
        for row in self.source.execute(query).mappings():
            values = self._translated(made, row) if row.get("complete", True) else None
            if values is None:
                left_out.add(row["id"])
                continue
            same = known.get(_key(identity, values))
            if same is not None:
                self._update(identity, same, values)
                if "id" in same:
                    ids[row["id"]] = same["id"]
            elif "id" in made.c:
                new = insert(made).returning(made.c.id)
                id = self.target.execute(new, change(values)).scalar_one()
                ids[row["id"]] = added[row["id"]] = id
            else:
                self.target.execute(insert(made), values)
            self.added[name] += same is None
        self.added = +self.added  # drops tables with a count of zero
        return added

    def _translated(self, made: Table, row: RowMapping) -> Values | None:
        """Return a row with the target's ids; None if it belongs to a row that is left out."""
        values = {each.name: row[each.name] for each in made.c if each.name != "id"}
        for key in made.foreign_keys:
            column, other, id = key.parent.name, key.column.table.name, row[key.parent.name]
            if id is None:
                continue
            if id in self.left_out[other]:
                return None
            if id not in self.ids[other]:
                raise StoreError(
                    f"its table {made.name} has a row with the {column} {id}, and there is no such "
                    f"row in {other}: `python bench.py db verify` lists all of these"
                )
            values[column] = self.ids[other][id]
        return values

    def _update(self, identity: Identity, same: RowMapping, values: Values) -> None:
        first, changed = identity.earliest, {}
        if first is not None and values[first] < same[first]:
            changed[first] = values[first]
        if identity.latest and values[identity.latest[0]] > same[identity.latest[0]]:
            changed |= {name: values[name] for name in identity.latest}
        if changed:
            made = TABLES[identity.table]
            this = [each == same[each.name] for each in made.primary_key]
            self.target.execute(update(made).where(*this).values(changed))
            self.updated += 1

    def _parts(self, name: str, measurements: Mapping[int, int]) -> None:
        """Copy the metrics or arrays of new measurements; arrays are copied as raw bytes."""
        types = {
            each.name: LargeBinary() if isinstance(each.type, Npy) else each.type
            for each in TABLES[name].c
            if each.name != "id"
        }
        made = table(name, *(column(name, kind) for name, kind in types.items()))
        of, id = TABLES[name].c.measurement_id, TABLES[name].c.id
        wanted = [type_coerce(TABLES[name].c[key], kind).label(key) for key, kind in types.items()]
        for some in chunks(measurements):
            rows = self.source.execute(select(*wanted).where(of.in_(some)).order_by(id)).mappings()
            for several in rows.partitions(SEVERAL):
                copied = [
                    {**row, "measurement_id": measurements[row["measurement_id"]]}
                    for row in several
                ]
                self.target.execute(insert(made), copied)
                self.added[name] += len(copied)


def _key(identity: Identity, row: Mapping[str, Any]) -> tuple[Any, ...]:
    cells = (row[name] for name in identity.columns)
    return tuple(to_json(cell) if isinstance(cell, dict) else cell for cell in cells)
