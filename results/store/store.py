"""The store: a database opened once, written in small transactions, read as typed records."""

from __future__ import annotations

from pathlib import Path

from results.connect import connect, resolve, store_errors
from results.migrate import prepare
from results.store.leases import Claims
from results.store.outcomes import Outcomes
from results.store.reading import Reader
from results.store.registration import Identities
from results.text import StoreError, nearest


class Store(Identities, Outcomes, Claims, Reader):
    """All that the engine keeps. A process opens its own; the threads of one may share it."""


def open_store(target: str | Path, *, create: bool = True, read_only: bool = False) -> Store:
    """Open a database; make it where there is none.

    Args:
        target: the path of a SQLite file, or any SQLAlchemy URL.
        create: False where only an existing database is of use.
        read_only: True where every write is to be refused.

    Raises:
        StoreError: it cannot be reached, is not ours, or has a schema of another version; the
            message says what to do.
    """
    url = resolve(target)
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    if file is not None and not create and not file.exists():
        raise StoreError(f"there is no database {file}{_nearest_database(file)}")
    if file is not None:
        _make_folder(file.parent)
    engine = connect(url, read_only=read_only)
    try:
        with store_errors(url, "open"):
            prepare(engine)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder} for the database: {error}") from error


def _nearest_database(missing: Path) -> str:
    """Name the nearest database in the folder of a missing one, or in a folder beside it."""
    folder = missing.absolute().parent
    around = [*folder.glob("*.db"), *folder.parent.glob(f"*/{missing.name}")]
    return nearest(str(missing.absolute()), map(str, around)) if around else ""
