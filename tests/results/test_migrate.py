from __future__ import annotations

import math
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, select, text

from results import Store, StoreError, describe, migrate, open_store
from results.columns import Base
from results.connect import connect, resolve
from results.frames import arrays_of, metrics_frame
from results.models import StudyRow

HEAD = migrate.head()
NEXT = f"""
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{HEAD}"


def upgrade():
    with op.batch_alter_table("studies") as table:
        table.add_column(sa.Column("note", sa.Text, server_default="none yet"))
"""


@pytest.fixture
def next_revision(tmp_path: Path) -> Path:
    """Migrations of the future: the present ones and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(NEXT)
    return folder


def schema(store_or_engine: Any) -> dict[str, Any]:
    """Return everything that the database knows about its tables."""
    inspector = inspect(store_or_engine)
    described = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        described[table] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": _by_name(inspector.get_foreign_keys(table)),
            "unique": _by_name(inspector.get_unique_constraints(table)),
            "indexes": _by_name(inspector.get_indexes(table)),
            "checks": _by_name(inspector.get_check_constraints(table)),
        }
    return described


def _by_name(constraints: list[Any]) -> list[Any]:
    return sorted(constraints, key=lambda constraint: str(constraint["name"]))


def test_migrations_produce_the_schema_of_the_models(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_create_the_same_tables_as_the_models(target: str) -> None:
    engine = connect(resolve(target))
    Base.metadata.create_all(engine)
    from_models = schema(engine)
    Base.metadata.drop_all(engine)
    engine.dispose()
    with open_store(target) as store:
        assert schema(store.engine) == from_models
    assert len(from_models) == len(Base.metadata.tables)


def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(
    target: str, next_revision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(target) as store:
        study = store.study("tiny", {"seeds": 3})
    monkeypatch.setattr(migrate, "MIGRATIONS", next_revision)
    command = rf"has the schema {HEAD} and .* needs next: run `python bench.py db upgrade --db .*`"
    with pytest.raises(StoreError, match=command):
        open_store(target)
    assert migrate.upgrade(target) == (HEAD, "next")
    assert migrate.upgrade(target) == ("next", "next")
    with open_store(target) as store, store.reading() as session:
        assert session.get_one(StudyRow, study).request == {"seeds": 3}
        assert session.scalar(text("SELECT note FROM studies")) == "none yet"


def test_a_newer_schema_is_refused(
    target: str, next_revision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as future:
        future.setattr(migrate, "MIGRATIONS", next_revision)
        open_store(target).close()
    for attempt in (open_store, migrate.upgrade):
        with pytest.raises(StoreError, match=r"schema next, made by a newer version of this code"):
            attempt(target)


def test_a_failed_upgrade_changes_nothing(
    target: str, next_revision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(target).close()
    broken = next_revision / "versions" / "next.py"
    broken.write_text(NEXT + "    op.execute('SELECT * FROM nowhere')\n")
    monkeypatch.setattr(migrate, "MIGRATIONS", next_revision)
    with pytest.raises(StoreError, match=r"cannot upgrade the database .*nowhere"):
        migrate.upgrade(target)
    monkeypatch.undo()
    with open_store(target) as store, store.engine.connect() as connection:
        assert migrate.revision(connection) == HEAD
        assert "note" not in {
            column["name"] for column in inspect(connection).get_columns("studies")
        }


def test_upgrade_creates_a_missing_database(target: str) -> None:
    assert migrate.upgrade(target) == (None, migrate.head())
    with open_store(target) as store, store.reading() as session:
        assert session.scalars(select(StudyRow)).all() == []


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        (["CREATE TABLE holidays (day TEXT)"], r"\(holidays\)"),
        # Like Optuna's, which keeps its schema's version in the same table as ours.
        (
            ["CREATE TABLE trials (n INTEGER)", "CREATE TABLE alembic_version (version_num TEXT)"],
            r"\(alembic_version, trials\)",
        ),
    ],
)
def test_a_database_of_another_program_is_left_alone(
    target: str, tables: list[str], named: str
) -> None:
    engine = create_engine(resolve(target))
    with engine.begin() as connection:
        for table in tables:
            connection.execute(text(table))
        if len(tables) > 1:
            connection.execute(text("INSERT INTO alembic_version VALUES ('v3.2.0.a')"))
    before = inspect(engine).get_table_names()
    for attempt in (open_store, migrate.upgrade):
        with pytest.raises(StoreError, match=rf"holds tables that are not ours {named}"):
            attempt(target)
    assert inspect(engine).get_table_names() == before
    engine.dispose()


def test_a_path_that_cannot_be_a_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database " * 100)
    with pytest.raises(StoreError, match=r"cannot open the database .*notes.txt: file is not a"):
        open_store(file)
    with pytest.raises(StoreError, match=r"cannot make the folder .*notes.txt"):
        open_store(file / "bench.db")
    with pytest.raises(StoreError, match=r"cannot open the database .*unable to open"):
        open_store(tmp_path)


def test_a_missing_database_is_not_created_if_an_existing_one_is_required(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no database .*typo.db"):
        open_store(tmp_path / "typo.db", create=False)
    assert list(tmp_path.iterdir()) == []
    open_store(tmp_path / "bench.db").close()
    open_store(str(tmp_path / "bench.db"), create=False).close()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("://nonsense", "not a database URL: '://nonsense'"),
        ("sqlight:///bench.db", "no such kind of database: 'sqlight'"),
        ("mssql+pymssql://host/bench", "needs the module 'pymssql', which is not installed"),
    ],
)
def test_a_url_without_a_usable_database_is_refused(target: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_store(target)


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'moe-router-bench\[postgres\]'"):
        open_store("postgresql://localhost/bench")


@pytest.mark.usefixtures("waits_for_disk")
def test_sqlite_uses_a_busy_timeout_write_ahead_logging_and_foreign_keys(tmp_path: Path) -> None:
    with open_store(tmp_path / "runs" / "bench.db") as store, store.reading() as session:
        settings = [
            session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        ]
        assert settings == ["wal", 300_000, 1, 2]
    raw = sqlite3.connect(tmp_path / "runs" / "bench.db")
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


DATABASES = Path(__file__).parent / "databases"


def test_there_is_a_stored_database_of_every_schema() -> None:
    """`databases/make.py` writes the newest one."""
    revisions = {script.revision for script in migrate.scripts().walk_revisions()}
    assert {file.stem for file in DATABASES.glob("*.sql")} == revisions


@pytest.mark.parametrize("dump", sorted(DATABASES.glob("*.sql")), ids=lambda file: file.stem)
def test_databases_of_older_versions_can_be_read(dump: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.db"
    connection = sqlite3.connect(file)
    connection.executescript(dump.read_text())
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = {name for (name,) in names}
    connection.close()
    assert migrate.upgrade(file) == (dump.stem, migrate.head())
    with open_store(file) as store:
        shown = metrics_frame(store, "tiny")
        assert shown.metric.tolist() == ["top1", "nll", "ms"]
        assert shown.router.tolist() == ["soft_moe"] * 3
        assert shown.seed.tolist() == [0, 0, 0]
        assert shown.unit.tolist() == ["%", None, None]
        np.testing.assert_array_equal(shown.value, [81.25, math.nan, 2.5])
        (load,) = (each for each in arrays_of(store, "tiny") if each.name == "load")
        np.testing.assert_array_equal(load.values, range(8))
        attempt = store.done_attempt("f1")
        assert attempt is not None
        assert (attempt.flops, attempt.steps, attempt.seconds) == (1e12, 100, 1.5)
        assert all(rows > 0 for name, rows in describe(store).rows.items() if name in tables)
