"""SQLite files that may be read and not written: an archive, a mount, a colleague's results.

SQLite wants to write even where it only reads: a database with a write-ahead log (`-wal`) needs the
log's index (`-shm`). So how a file is opened depends on what lies beside it:

- log and index: somebody works on it, or did when the copy was made; SQLite uses both as they are;
- a log or a rollback journal alone: some of the data is in there, so a copy in a temporary folder,
  where SQLite can put the two together, is read in its place;
- neither: all is in the file, which nobody else has open, so SQLite may take it as immutable.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path


def may_only_be_read(file: Path) -> bool:
    """Whether there is such a file, and it or its folder cannot be written."""
    return file.is_file() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


class ReadOnlyFile:
    """Opens a SQLite file without a write beside it; `close` removes the copy, if one was made."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._copy: Path | None = None

    def connect(self) -> sqlite3.Connection:
        """A connection that refuses to write."""
        connection = sqlite3.connect(self._uri(), uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def close(self) -> None:
        """Remove the copy."""
        if self._copy is not None:
            shutil.rmtree(self._copy.parent, ignore_errors=True)
            self._copy = None

    def _uri(self) -> str:
        log, index, journal = (_beside(self._file, end) for end in ("-wal", "-shm", "-journal"))
        name = self._file.absolute().as_uri()
        if log.exists() and index.exists():
            return f"{name}?mode=ro"
        if not any(part.exists() and part.stat().st_size for part in (log, journal)):
            return f"{name}?mode=ro&immutable=1"
        if self._copy is None:
            self._copy = Path(tempfile.mkdtemp(prefix="moe-router-bench-")) / self._file.name
            for part in (log, journal):
                if part.exists():
                    shutil.copyfile(part, self._copy.with_name(part.name))
            shutil.copyfile(self._file, self._copy)
        return self._copy.as_uri()


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)
