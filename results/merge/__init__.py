"""Merging of the databases of several machines into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from results.connect import resolve, store_errors
from results.merge.disagreements import Disagreement, disagreements
from results.merge.files import copy_files, files_of, own_paths
from results.merge.rows import RowCopy
from results.models import AttemptRow, TrialRow
from results.store.records import UNFINISHED
from results.store.store import Store, open_store
from results.text import StoreError

__all__ = ["Disagreement", "Merged", "disagreements", "merge", "merge_all"]


@dataclass(frozen=True)
class Merged:
    """The changes made by merging one source.

    Attributes:
        added: number of new rows by table; empty if the target had all of them.
        updated: number of rows that took over an earlier or later time.
        unfinished: number of attempts left out because they have not ended.
        folders: number of folders of weights that were copied.
        trials: fingerprints of the trials for which the source has attempts that ended.
    """

    source: str
    added: dict[str, int]
    updated: int
    unfinished: int
    folders: int
    trials: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        """Whether the merge changed anything."""
        return bool(self.added or self.updated or self.folders)


def merge_all(target: str, sources: Sequence[str], home: Path) -> list[Merged]:
    """Merge databases into another one, which is created if it does not exist.

    All sources are opened, read-only, before anything is written.

    Args:
        target, sources: SQLite files or SQLAlchemy URLs.
        home: the folder to which the file paths of the target's attempts are relative.

    Raises:
        StoreError: a database cannot be used, or a source is the target itself.
    """
    with ExitStack() as opened:
        stores = []
        for name in sources:
            if _same(name, target):
                raise StoreError(
                    f"{name} is the database that is merged into: name only the others, or "
                    "choose another target with --db"
                )
            stores.append(opened.enter_context(open_store(name, create=False, read_only=True)))
        into = opened.enter_context(open_store(target))
        return [merge(into, store, home) for store in stores]


def merge(target: Store, source: Store, home: Path) -> Merged:
    """Add the contents of one database to another in one transaction, then copy its files.

    Leases and attempts that have not ended are left out. Merging again changes nothing.

    Raises:
        StoreError: a row of the source refers to a missing row; nothing was merged.
    """
    with _snapshot(source) as reading, target.alone() as writing:
        copied = RowCopy(reading, writing, {"attempts": own_paths(writing, home)})
        try:
            copied.run()
        except StoreError as error:
            raise StoreError(f"cannot merge {source.url}: {error}") from None
        files = files_of(copied)
        tried = select(TrialRow.fingerprint).join(AttemptRow, AttemptRow.trial_id == TrialRow.id)
        ended = tried.where(AttemptRow.status.not_in(UNFINISHED)).distinct()
        trials = tuple(reading.scalars(ended))
    url = source.engine.url
    folders = 0
    if url.get_backend_name() == "sqlite" and url.database:
        folders = copy_files(files, Path(url.database).parent, home)
    return Merged(
        source=source.url,
        added=dict(copied.added),
        updated=copied.updated,
        unfinished=len(copied.left_out["attempts"]),
        folders=folders,
        trials=trials,
    )


@contextmanager
def _snapshot(store: Store) -> Iterator[Session]:
    """Open a session that reads the database as it is now, even if others write to it meanwhile."""
    engine = store.engine
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with store_errors(engine.url, "read"), Session(engine) as session:
        yield session


def _same(one: str, other: str) -> bool:
    """Tell whether two names refer to the same database."""
    urls = [resolve(one), resolve(other)]
    files = [Path(str(url.database)) for url in urls if url.get_backend_name() == "sqlite"]
    if len(files) == 2 and all(file.exists() for file in files):
        return files[0].samefile(files[1])
    return urls[0] == urls[1]
