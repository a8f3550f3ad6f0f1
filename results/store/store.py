"""The store: a database opened once, written in small transactions and read as typed records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from results.columns import Base
from results.connect import connect, resolve, store_errors
from results.files import network_file_system
from results.migrate import prepare, revision
from results.models import AttemptRow, MeasurementRow, RunRow, StudyRow
from results.store.leases import Leases, alive
from results.store.read import Reader
from results.store.records import StudyRecord
from results.store.write import Writer
from results.text import StoreError, nearest

if TYPE_CHECKING:
    import pandas as pd


class Store(Writer, Leases, Reader):
    """Everything the engine stores. Each process opens its own store; its threads may share it."""


def open_store(target: str | Path, *, create: bool = True, read_only: bool = False) -> Store:
    """Open a database, creating it if there is none.

    Args:
        target: the path of a SQLite file, or any SQLAlchemy URL.
        create: False to require an existing database; one on a network file system, where SQLite
            cannot write, is then opened read-only.
        read_only: whether to refuse every write.

    Raises:
        StoreError: it cannot be reached, is not ours, or has another schema version; the message
            says what to do.
    """
    url = resolve(target)
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    if file is not None and not create and not file.exists():
        raise StoreError(f"there is no database {file}{_nearest_database(file)}")
    if file is not None and not create and network_file_system(file):
        read_only = True
    engine = connect(url, read_only=read_only)
    try:
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                why = f"cannot make the folder {file.parent} for the database: {error}"
                raise StoreError(why) from error
        with store_errors(url, "open"):
            prepare(engine, create=not read_only)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


def _nearest_database(missing: Path) -> str:
    """Name the database nearest to a missing one, in its folder or in a sibling folder."""
    folder = missing.absolute().parent
    around = [*folder.glob("*.db"), *folder.parent.glob(f"*/{missing.name}")]
    return nearest(str(missing.absolute()), map(str, around)) if around else ""


@dataclass(frozen=True, eq=False)
class StudyFrames:
    """A study's rows, as they stood when it was loaded.

    Attributes:
        name: the study's name.
        trials: one row per trial, with its status, cost, log and environment.
        measurements: one row per measurement, including failed and skipped ones.
        metrics: one row per number, with router, condition, seed, suite, layer, step and split.
    """

    name: str
    trials: pd.DataFrame
    measurements: pd.DataFrame
    metrics: pd.DataFrame


def load_study(
    name: str, home: str | Path | None = None, db: str | Path | None = None
) -> StudyFrames:
    """Read a study from the database, which is opened read-only and closed again.

    The frames hold the results that a report shows; `results.frames` can also read older ones.

    Args:
        name: the study's name, as `python bench.py db info` lists it.
        home: folder with the database `bench.db`; None for the folder in BENCH_HOME, or `runs` in
            the current folder if that is not set.
        db: a SQLite file or any SQLAlchemy URL, instead of the database in the home folder.

    Raises:
        StoreError: there is no such database or study; the message names the nearest.
    """
    from results.frames import measurements_frame, metrics_frame, trials_frame

    if db is None:
        db = Path(home or os.environ.get("BENCH_HOME") or "runs").expanduser() / "bench.db"
    elif "://" not in str(db):
        db = Path(db).expanduser()
    with open_store(db, create=False, read_only=True) as store:
        return StudyFrames(
            name=name,
            trials=trials_frame(store, name),
            measurements=measurements_frame(store, name),
            metrics=metrics_frame(store, name),
        )


@dataclass(frozen=True)
class Description:
    """A database in numbers: rows by table, attempts by status, and live runs (`working`)."""

    url: str
    """The URL without its password."""
    size_bytes: int
    schema: str
    """Schema revision; always the newest, since no other database can be opened."""
    rows: dict[str, int]
    studies: list[StudyRecord]
    attempts: dict[str, int]
    last_write: datetime | None
    """The last time that an attempt began or ended, something was measured, a study was requested,
    or a run recorded a heartbeat."""
    working: int


def describe(store: Store) -> Description:
    """Return a description of what a database holds."""
    times = (
        AttemptRow.started_at,
        AttemptRow.finished_at,
        MeasurementRow.measured_at,
        StudyRow.requested_at,
        RunRow.heartbeat_at,
    )
    by_status = select(AttemptRow.status, func.count()).group_by(AttemptRow.status)
    with store.reading() as session:
        written = [session.scalar(select(func.max(time))) for time in times]
        return Description(
            url=store.url,
            size_bytes=_size(session),
            schema=str(revision(session.connection())),
            rows={
                table.name: session.scalar(select(func.count()).select_from(table)) or 0
                for table in Base.metadata.sorted_tables
            },
            studies=store.studies(),
            attempts=dict(session.execute(by_status).all()),
            last_write=max((time for time in written if time is not None), default=None),
            working=sum(map(alive, store.runs())),
        )


def _size(session: Session) -> int:
    """Return the size on disk in bytes; for a SQLite file, including its write-ahead log."""
    url = session.connection().engine.url
    if url.get_backend_name() == "postgresql":
        return session.scalars(text("SELECT pg_database_size(current_database())")).one()
    files = [Path(f"{url.database}{ending}") for ending in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())
