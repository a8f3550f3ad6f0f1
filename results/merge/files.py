"""Files of merged attempts, weights and logs, copied without overwriting any other file."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from results.files import file_sha256
from results.merge.rows import Change, RowCopy, Values
from results.models import AttemptRow

PATHS = (AttemptRow.checkpoint, AttemptRow.checkpoint_sha256, AttemptRow.log)


def own_paths(target: Session, home: Path) -> Change:
    """Return a function that gives a new attempt its own paths if the target already uses them.

    A checkpoint keeps its path if its content is the same; otherwise its folder is named after its
    content: `trials/3f9a2c-81b0de44/final.safetensors`. A folder in the home that no row names is
    in use too: it is that of an attempt without weights. A log is named after the attempt's start.
    """
    hashes: dict[str, set[str | None]] = defaultdict(set)
    rows = target.execute(select(*PATHS)).all()
    logs = {log for _, _, log in rows}
    for path, sha256, _ in rows:
        if path is not None:
            hashes[path].add(sha256)

    def is_taken(path: str, sha256: str | None) -> bool:
        if path in hashes:
            return sha256 not in hashes[path]
        own = home / path
        return own.parent.exists() and not (own.is_file() and file_sha256(own) == sha256)

    def change(values: Values) -> Values:
        path, sha256, log = (values[column.key] for column in PATHS)
        if path and is_taken(path, sha256):
            file = PurePosixPath(path)
            folder = f"{file.parent}-{(sha256 or '')[:8]}"
            values = {**values, "checkpoint": f"{folder}/{file.name}"}
        if log is not None and log in logs:
            file = PurePosixPath(log)
            own = file.with_stem(f"{file.stem}-{values['started_at']:%Y%m%dT%H%M%S}")
            values = {**values, "log": str(own)}
        return values

    return change


class MergedFile(NamedTuple):
    """A log or the weights of an attempt, with paths relative to the home folders.

    Attributes:
        path: the path in the source.
        own_path: the path in the target.
        sha256: the hash of weights, which are copied with their whole folder; None for a log.
    """

    path: str
    own_path: str
    sha256: str | None


def files_of(copied: RowCopy) -> list[MergedFile]:
    """Return the files of all attempts of the source, including those the target already had."""
    query = select(AttemptRow.id, *PATHS)
    own_paths = {id: paths for id, *paths in copied.target.execute(query)}
    files = []
    for id, checkpoint, sha256, log in copied.source.execute(query):
        if id in copied.ids["attempts"]:
            own_checkpoint, _, own_log = own_paths[copied.ids["attempts"][id]]
            if checkpoint and own_checkpoint and sha256:
                files.append(MergedFile(checkpoint, own_checkpoint, sha256))
            if log and own_log:
                files.append(MergedFile(log, own_log, None))
    return files


def copy_files(files: Iterable[MergedFile], source_home: Path, target_home: Path) -> int:
    """Copy the files that the target's home lacks; existing ones are left unchanged.

    Weights are copied only if their content matches the hash in the database.

    Returns:
        The number of folders of weights that were copied.
    """
    folders = 0
    for path, own_path, sha256 in files:
        file, own = source_home / path, target_home / own_path
        inside = not {"..", "/"} & {*Path(path).parts, *Path(own_path).parts}
        if not inside or not file.is_file():
            continue
        if sha256 is None:
            _copy(file, own)
        elif not own.parent.exists() and file_sha256(file) == sha256:
            folders += _copy(file.parent, own.parent)
    return folders


def _copy(source: Path, own: Path) -> bool:
    """Copy a file or folder, completely or not at all, if nothing has its name yet."""
    if own.exists():
        return False
    own.parent.mkdir(parents=True, exist_ok=True)
    part = own.with_name(f".{own.name}.{os.getpid()}")
    try:
        if source.is_dir():
            shutil.copytree(source, part)
        else:
            shutil.copyfile(source, part)
        part.rename(own)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        raise
    return True
