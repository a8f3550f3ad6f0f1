"""Files that a source of images needs: whether they are the right ones, and what to do if not."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from routers.errors import RequestError

CONNECT_SECONDS = 20


def check_md5(file: Path, accepted: set[str]) -> None:
    """Refuse a file that is not one of those that are known.

    Raises:
        RequestError: it is missing, or its MD5 is none of the accepted ones.
    """
    if not file.exists():
        raise RequestError(f"{file.name} is missing in {file.parent}, where its sister files are")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "md5").hexdigest()
    if digest not in accepted:
        raise RequestError(
            f"{file} is damaged or another file: its MD5 is {digest}, not "
            f"{' or '.join(sorted(accepted))}; delete it, or put the right one there"
        )


@contextmanager
def downloading(title: str, files: Sequence[str], folder: Path) -> Iterator[None]:
    """Time downloads out soon where there is no network, and say which file to put where.

    Raises:
        RequestError: whatever went wrong within; it says which file goes where.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    except Exception as error:  # servers, archives and gdown fail in ways of their own
        reason = " ".join(str(error).split())
        raise RequestError(
            f"{title} is not wholly on this machine and cannot be downloaded ({reason}); "
            f"put {', '.join(files)} into {folder}, or name their folder by data.data_dir"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def data_folder(folder: Path | None) -> Path:
    """Return the given folder; or the environment's BENCH_DATA; or a folder in the user's cache."""
    if folder is not None:
        return folder
    usual = os.environ.get("BENCH_DATA")
    return expanded(usual) if usual else cache_folder() / "data"


def cache_folder() -> Path:
    """Return the folder for files that can be made again."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moe-router-bench"


def expanded(path: str) -> Path:
    """Return the path with the user's home folder in the place of `~`.

    Raises:
        RequestError: there is no such user, or HOME is unset and the system knows no other.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{path}: {error} Write the path in full, or set HOME.") from None


UNSIGNED_BYTES = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read the uint8 array in a gzipped IDX file.

    Raises:
        RequestError: the file is not a whole gzipped IDX file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read as a gzipped IDX file: {error}") from None
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise RequestError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(content) - header != np.prod(shape):
        raise RequestError(
            f"{path} holds {len(content) - header} bytes after its header, not those of {shape}"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)
