"""Databases, opened by path or URL, whose writers wait for each other instead of failing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Select, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, StatementError
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.files import WAY_OUT, refusal
from results.text import StoreError, to_json

BUSY_SECONDS = 300
"""Longest time that a writer waits for another one."""
ASK_AGAIN = 1
"""Seconds that a writer waits inside SQLite at a time, since Ctrl-C has no effect there."""
CHUNK = 1000
"""Number of values in one `IN (…)`, which every database accepts."""

Value = TypeVar("Value")


def may_only_be_read(file: Path) -> bool:
    """Tell whether the file exists but it or its folder cannot be written."""
    return file.is_file() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


class ReadOnlyFile:
    """A SQLite file opened without writing anything beside it; `close` removes any copy."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._copy: Path | None = None

    def connect(self) -> sqlite3.Connection:
        """Open a connection that refuses to write."""
        connection = sqlite3.connect(self._uri(), uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def close(self) -> None:
        """Remove the copy, if one was made."""
        if self._copy is not None:
            shutil.rmtree(self._copy.parent, ignore_errors=True)
            self._copy = None

    def _uri(self) -> str:
        endings = ("-wal", "-shm", "-journal")
        log, index, rollback = (self._file.with_name(self._file.name + end) for end in endings)
        name = self._file.absolute().as_uri()
        if log.exists() and index.exists():
            return f"{name}?mode=ro"
        if not any(part.exists() and part.stat().st_size for part in (log, rollback)):
            return f"{name}?mode=ro&immutable=1"
        if self._copy is None:
            self._copy = Path(tempfile.mkdtemp(prefix="moe-router-bench-")) / self._file.name
            for part in (log, rollback, self._file):  # the log before the file it is merged into
                if part.exists():
                    shutil.copyfile(part, self._copy.with_name(part.name))
        return self._copy.as_uri()


def resolve(target: str | Path) -> URL:
    """Return the URL of a database; a path means a SQLite file.

    Raises:
        StoreError: the text looks like a URL but is not a valid one.
    """
    if isinstance(target, Path) or "://" not in target:
        return URL.create("sqlite", database=str(target))
    try:
        url = make_url(target)
    except ArgumentError as error:
        raise StoreError(f"not a database URL: {target!r} ({error})") from error
    # SQLAlchemy 2.0 would take `postgresql://` to mean psycopg2.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def connect(url: URL, *, read_only: bool = False) -> Engine:
    """Make an engine for `url`; connections with the option `write=True` begin as writers.

    A SQLite file that cannot be written is opened read-only. One on a network file system is
    refused, unless `read_only` is set.

    Args:
        read_only: whether to refuse every write. Nothing is written beside a SQLite file either,
            and the log of a run that died is left as it is.

    Raises:
        StoreError: there is no driver for this kind of database, or the file's location does not
            allow writing.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    file = None
    if is_sqlite and url.database:
        path = Path(url.database)
        if (read_only and path.is_file()) or may_only_be_read(path):
            file = ReadOnlyFile(path)
        elif not read_only and (why := refusal(path)):
            raise StoreError(f"{why}: {WAY_OUT}")
    options: dict[str, Any] = {"creator": file.connect} if file else {}
    if read_only and not is_sqlite:
        options["execution_options"] = {f"{url.get_backend_name()}_readonly": True}
    try:
        engine = create_engine(url, json_serializer=to_json, pool_pre_ping=True, **options)
    except NoSuchModuleError as error:
        raise StoreError(f"no such kind of database: {url.drivername!r}") from error
    except ModuleNotFoundError as error:
        if url.get_backend_name() == "postgresql" and error.name == "psycopg":
            raise StoreError(
                "PostgreSQL needs the driver psycopg, which is not installed: "
                "`pip install 'moe-router-bench[postgres]'`"
            ) from error
        needed = f"{url.drivername!r} needs the module {error.name!r}, which is not installed"
        raise StoreError(needed) from error
    if file is not None:
        event.listen(engine, "engine_disposed", lambda _engine: file.close())
    if is_sqlite:
        if read_only:  # before the other listener, which leaves read-only connections alone
            event.listen(engine, "connect", lambda new, _: new.execute("PRAGMA query_only = ON"))
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def store_errors(url: URL, doing: str) -> Iterator[None]:
    """Turn a driver's errors into a StoreError that names the database."""
    try:
        yield
    except StatementError as error:
        if isinstance(error.orig, StoreError):
            raise error.orig from error
        name = url.render_as_string(hide_password=True)
        raise StoreError(f"cannot {doing} the database {name}: {error.orig}") from error


class Database:
    """An open database with the newest schema: sessions for reading, transactions for writing."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def url(self) -> str:
        """The database's URL, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads and never waits for a writer."""
        with store_errors(self.engine.url, "read"), Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a session that is one transaction: either all of it is kept or nothing."""
        writer = self.engine.execution_options(write=True)
        with store_errors(self.engine.url, "write to"), Session(writer) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def chunks(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Yield the distinct values in chunks that fit into one query."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), CHUNK):
        yield distinct[start : start + CHUNK]


def among(
    session: Session,
    query: Select[*tuple[Any, ...]],
    column: InstrumentedAttribute[Any],
    values: Iterable[Any],
) -> Iterator[Any]:
    """Yield the query's rows whose column has one of these values."""
    for some in chunks(values):
        yield from session.execute(query.where(column.in_(some)))


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver must not begin transactions itself: `_begin_sqlite` does that.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    if connection.execute("PRAGMA query_only").fetchone() == (0,):
        _use_write_ahead_log(connection)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Keep readers and a writer from blocking each other; the switch ignores the busy timeout."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() == ("delete",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _is_locked(error: BaseException | None) -> bool:
    """Tell whether another connection holds the lock, which it may soon release."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits say why
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once if another one has written in
    # between, whatever the timeout. One that begins as a writer waits its turn.
    if not connection.get_execution_options().get("write", False):
        connection.exec_driver_sql("BEGIN")
        return
    deadline = time.monotonic() + BUSY_SECONDS
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {ASK_AGAIN * 1000}")
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            break
        except OperationalError as error:
            if not _is_locked(error.orig) or time.monotonic() > deadline:
                raise
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
