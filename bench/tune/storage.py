"""Where Optuna keeps the trials of tunings: tables of its own, beside the results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from results import StoreError
from results.connect import BUSY_SECONDS

FILE, SCHEMA = "tuning.db", "tuning"


@contextmanager
def open_tuning(engine: Engine) -> Iterator[RDBStorage]:
    """Return the tuning that belongs to a results database; made where there is none.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _opened(engine)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (StorageInternalError, SQLAlchemyError) as error:
        url, cause = engine.url.render_as_string(hide_password=True), error.__cause__ or error
        raise StoreError(f"cannot use the tuning beside {url}: {cause}") from error


def file_of(engine: Engine) -> Path:
    return Path(str(engine.url.database)).parent / FILE


def _opened(engine: Engine) -> RDBStorage:
    if engine.dialect.name == "sqlite":
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{file_of(engine)}", engine_kwargs=wait)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    options = [str(engine.url.query.get("options", "")), f"-csearch_path={SCHEMA}"]
    url = engine.url.update_query_dict({"options": " ".join(options).strip()})
    return RDBStorage(url.render_as_string(hide_password=False))
