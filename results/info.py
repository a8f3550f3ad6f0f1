"""What is in a database, at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from results.columns import Base
from results.migrate import revision
from results.models import AttemptRow, MeasurementRow, RunRow, StudyRow
from results.store.leases import alive
from results.store.records import StudyRecord
from results.store.store import Store


@dataclass(frozen=True)
class Description:
    """A database in numbers."""

    url: str
    """Without its password."""
    size_bytes: int
    schema: str
    """Schema revision; always the newest, or the database would not have opened."""
    rows: dict[str, int]
    """Number of rows by table."""
    studies: list[StudyRecord]
    attempts: dict[str, int]
    """Number of attempts by status."""
    last_write: datetime | None
    """When an attempt last began or ended, something was measured, a study asked for, or a run
    told that it lives."""
    working: int
    """Number of runs that live now."""


def describe(store: Store) -> Description:
    """Count what a database holds."""
    with store.reading() as session:
        connection = session.connection()
        rows = {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }
        by_status = select(AttemptRow.status, func.count().label("number"))
        by_status = by_status.group_by(AttemptRow.status)
        times = (
            AttemptRow.started_at,
            AttemptRow.finished_at,
            MeasurementRow.measured_at,
            StudyRow.requested_at,
            RunRow.heartbeat_at,
        )
        written = [session.scalar(select(func.max(time))) for time in times]
        return Description(
            url=store.url,
            size_bytes=_size(session),
            schema=str(revision(connection)),
            rows=rows,
            studies=store.studies(),
            attempts={row.status: row.number for row in session.execute(by_status)},
            last_write=max((time for time in written if time is not None), default=None),
            working=sum(alive(run) for run in store.runs()),
        )


def _size(session: Session) -> int:
    """Bytes on disk; of a SQLite file together with its write-ahead log."""
    url = session.connection().engine.url
    if url.get_backend_name() == "postgresql":
        return session.scalars(text("SELECT pg_database_size(current_database())")).one()
    files = [Path(f"{url.database}{ending}") for ending in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())
