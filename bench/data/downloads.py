"""Files that a source of images needs: whether they are the right ones, and what to do if not."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
        found = hashlib.file_digest(opened, "md5").hexdigest()
    if found not in accepted:
        raise RequestError(
            f"{file} is damaged or another file: its MD5 is {found}, not "
            f"{' or '.join(sorted(accepted))}; delete it, or put the right one there"
        )


@contextmanager
def downloading(title: str, files: Sequence[str], folder: Path) -> Iterator[None]:
    """Give up soon where there is no network, and say what to put where.

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
