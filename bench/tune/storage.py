"""Optuna's storage of the trials of tunings: its own tables, next to the results."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from results import StoreError
from results.connect import BUSY_SECONDS

FILE, SCHEMA = "tuning.db", "tuning"
USUAL = "bench.db"
"""The name of a database of results whose tuning is in `FILE`."""


@contextmanager
def open_tuning(engine: Engine, *, read_only: bool = False) -> Iterator[RDBStorage]:
    """Yield the tuning storage that belongs to a results database, creating it if necessary.

    Args:
        read_only: whether to refuse every write; the storage must exist.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _opened_to_read(engine) if read_only else _opened(engine)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (StorageInternalError, SQLAlchemyError) as error:
        url, cause = engine.url.render_as_string(hide_password=True), error.__cause__ or error
        raise StoreError(f"cannot use the tuning beside {url}: {cause}") from error


def has_tuning(engine: Engine) -> bool:
    """Tell whether something was tuned with a results database, without creating anything."""
    if engine.dialect.name == "sqlite":
        return file_of(engine).exists()
    return SCHEMA in inspect(engine).get_schema_names()


def file_of(engine: Engine) -> Path:
    """Return the file of the tuning that belongs to a SQLite file of results.

    Each of several databases in a folder has its own: `all.tuning.db` beside `all.db`.
    """
    file = Path(str(engine.url.database))
    return file.with_name(FILE if file.name == USUAL else f"{file.stem}.{FILE}")


def _opened(engine: Engine) -> RDBStorage:
    if engine.dialect.name == "sqlite":
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{file_of(engine)}", engine_kwargs=wait)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    return RDBStorage(_with_options(engine, f"-csearch_path={SCHEMA}"))


def _opened_to_read(engine: Engine) -> RDBStorage:
    if engine.dialect.name == "sqlite":
        file = file_of(engine)
        connect = partial(sqlite3.connect, timeout=BUSY_SECONDS, check_same_thread=False, uri=True)
        how = {"creator": partial(connect, f"{file.absolute().as_uri()}?mode=ro")}
        return RDBStorage(f"sqlite:///{file}", engine_kwargs=how, skip_table_creation=True)
    url = _with_options(engine, f"-csearch_path={SCHEMA} -cdefault_transaction_read_only=on")
    return RDBStorage(url, skip_table_creation=True)


def _with_options(engine: Engine, options: str) -> str:
    """Return the URL of a PostgreSQL database with additional options for its sessions."""
    asked = f"{engine.url.query.get('options', '')} {options}".strip()
    url = engine.url.update_query_dict({"options": asked})
    return url.render_as_string(hide_password=False)
