"""Schema versions: a new database gets the newest; an old one is upgraded on request."""

import shlex
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from results.connect import connect, resolve, store_errors
from results.models import MeasurementRow
from results.text import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"
_CREATION_LOCK = 2401_15969
"""Number of the PostgreSQL advisory lock held while a schema is created."""


def scripts() -> ScriptDirectory:
    """Return the directory of all schema revisions, one file each."""
    return ScriptDirectory(str(MIGRATIONS))


def head() -> str:
    """Return the schema revision that this code works with."""
    return str(scripts().get_current_head())


def revision(connection: Connection) -> str | None:
    """Return the schema revision of a database; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(target: str | Path) -> tuple[str | None, str]:
    """Upgrade a database to the newest schema; create it if there is none.

    Returns:
        Its revision before (None if it was empty) and now.

    Raises:
        StoreError: it is newer than this code, is not one of ours, or cannot be written.
    """
    url = resolve(target)
    engine = connect(url)
    try:
        with store_errors(url, "upgrade"):
            return _upgrade(engine)
    finally:
        engine.dispose()


def prepare(engine: Engine, *, create: bool = True) -> None:
    """Create the schema in an empty database; ensure that any other has the newest one.

    Args:
        create: False to refuse an empty database.

    Raises:
        StoreError: its schema is older or newer, its tables are not ours, or it is refused.
    """
    with engine.connect() as connection:
        stored = _ours(connection)
    if stored is None and create:
        _upgrade(engine)
        return
    name = engine.url.render_as_string(hide_password=True)
    if stored is None:
        raise StoreError(f"the database {name} is empty")
    if stored != head():
        raise StoreError(
            f"the database {name} has the schema {stored} and this code needs {head()}: "
            f"run `python bench.py db upgrade --db {shlex.quote(name)}`"
        )


def _upgrade(engine: Engine) -> tuple[str | None, str]:
    # A single transaction: a second process waits, then finds nothing to do.
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})"))
        before = _ours(connection)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, head()


def _ours(connection: Connection) -> str | None:
    """Return the revision if this code can work with it; None if the database is empty."""
    name = connection.engine.url.render_as_string(hide_password=True)
    # In this order: another process may create the schema, all at once, between the two queries.
    tables = sorted(inspect(connection).get_table_names())
    stored = revision(connection) if tables else None
    if tables and (stored is None or MeasurementRow.__tablename__ not in tables):
        raise StoreError(
            f"the database {name} holds tables that are not ours ({', '.join(tables[:5])}): "
            "name a new file, or an empty schema"
        )
    if stored is not None and stored not in {each.revision for each in scripts().walk_revisions()}:
        raise StoreError(
            f"the database {name} has the schema {stored}, made by a newer version of this code "
            f"(which knows up to {head()}): update the code, then `python bench.py db upgrade`"
        )
    return stored
