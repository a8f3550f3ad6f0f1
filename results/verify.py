"""Verification of a database: dangling references, orphans, and values that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sqlalchemy import CheckConstraint, LargeBinary, func, select, text, type_coerce
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from results.columns import Base
from results.connect import Database
from results.models import ArrayRow, AttemptRow, LayerRow, MeasurementRow, TrialRow
from results.store.read import BY_BEGIN, SUBJECTS
from results.text import counted

Kind = Literal["database file", "constraint", "foreign key", "orphan", "array", "checkpoint"]
SEVERAL = 200
"""Number of arrays held in memory at once."""


@dataclass(frozen=True)
class Fault:
    """One fault in a database.

    Attributes:
        what: the row or file.
        why: what is wrong with it.
    """

    kind: Kind
    what: str
    why: str


def verify_rows(database: Database) -> list[Fault]:
    """Return the faults of a database without changing anything.

    If the file itself is damaged, nothing more is read from it.
    """
    with database.reading() as session:
        return list(_file(session)) or [
            *_constraints(session),
            *_foreign_keys(session),
            *_orphans(session),
            *_arrays(session),
        ]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a finished attempt, with their path relative to the home folder."""

    path: str
    sha256: str | None
    trial: str


def stored_checkpoints(database: Database) -> list[Checkpoint]:
    """Return all checkpoints; a path that several attempts name belongs to the latest of them."""
    columns = (AttemptRow.checkpoint, AttemptRow.checkpoint_sha256, TrialRow.fingerprint)
    query = select(*columns).join(TrialRow, AttemptRow.trial_id == TrialRow.id)
    query = query.where(AttemptRow.checkpoint.is_not(None)).order_by(*BY_BEGIN)
    with database.reading() as session:
        rows = session.execute(query)
        last = {path: Checkpoint(str(path), digest, trial) for path, digest, trial in rows}
    return list(last.values())


def tried_trials(database: Database) -> list[str]:
    """Return the fingerprints of all trials with an attempt, however it ended."""
    query = select(TrialRow.fingerprint).join(AttemptRow, AttemptRow.trial_id == TrialRow.id)
    with database.reading() as session:
        return list(session.scalars(query.distinct()))


def _file(session: Session) -> Iterator[Fault]:
    """Yield the faults that SQLite itself finds in pages and indexes."""
    if session.get_bind().dialect.name != "sqlite":
        return
    try:
        reports = list(session.scalars(text("PRAGMA integrity_check")))
    except DatabaseError as error:
        reports = [str(error.orig)]
    for report in reports:
        if report != "ok":
            yield Fault("database file", str(session.connection().engine.url.database), report)


def _constraints(session: Session) -> Iterator[Fault]:
    """Yield rows that break a check constraint, which SQLite's own check skips if read-only."""
    for table in Base.metadata.sorted_tables:
        for rule in table.constraints:
            if isinstance(rule, CheckConstraint):
                for id in session.scalars(select(table.c.id).where(text(f"NOT ({rule.sqltext})"))):
                    yield Fault("constraint", f"{table.name}: row {id}", f"not so: {rule.sqltext}")


def _foreign_keys(session: Session) -> Iterator[Fault]:
    """Yield rows that refer to a missing row."""
    for table in Base.metadata.sorted_tables:
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
            other = key.column.table.alias()
            row = table.c.get("id", key.parent)
            query = select(key.parent, func.count(), func.min(row)).select_from(table)
            query = query.outerjoin(other, key.parent == other.c.id)
            query = query.where(key.parent.is_not(None), other.c.id.is_(None))
            for id, number, first in session.execute(query.group_by(key.parent)):
                which = f", the first {first}" if "id" in table.c else ""
                yield Fault(
                    "foreign key",
                    f"{table.name}: {counted(number, 'row')}{which}",
                    f"{key.parent.name} is {id}, and {key.column.table.name} has no row {id}",
                )


def _orphans(session: Session) -> Iterator[Fault]:
    """Yield trials and layers that belong to no study."""
    for row_type, link in SUBJECTS:
        query = select(row_type.fingerprint).outerjoin(link).where(link.study_id.is_(None))
        for fingerprint in session.scalars(query.order_by(row_type.id)):
            name = f"{row_type.__tablename__[:-1]} {fingerprint[:10]}"
            yield Fault("orphan", name, "it belongs to no study, so no report shows it")


def _arrays(session: Session) -> Iterator[Fault]:
    """Yield arrays that cannot be read."""
    content = type_coerce(ArrayRow.__table__.c["values"], LargeBinary)
    subject = func.coalesce(TrialRow.fingerprint, LayerRow.fingerprint)
    query = select(ArrayRow.id, ArrayRow.name, MeasurementRow.suite, subject, content)
    query = query.outerjoin(MeasurementRow, ArrayRow.measurement_id == MeasurementRow.id)
    query = query.outerjoin(AttemptRow, MeasurementRow.attempt_id == AttemptRow.id)
    query = query.outerjoin(TrialRow, AttemptRow.trial_id == TrialRow.id)
    query = query.outerjoin(LayerRow, MeasurementRow.layer_id == LayerRow.id)
    rows = session.execute(query.order_by(ArrayRow.id).execution_options(yield_per=SEVERAL))
    for id, name, suite, fingerprint, stored in rows:
        try:
            np.load(io.BytesIO(stored), allow_pickle=False)
        except Exception as error:  # numpy raises all sorts of errors for foreign bytes
            of = f" of {suite}" if suite else ""
            on = f", {fingerprint[:10]}" if fingerprint else ""
            why = " ".join(f"it cannot be read: {error}".split())
            yield Fault("array", f"array {id}: {name}{of}{on}", why)
