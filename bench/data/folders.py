"""Where data sets lie that no command named a folder for."""

from __future__ import annotations

import os
from pathlib import Path

from routers.errors import RequestError


def data_folder(folder: Path | None) -> Path:
    """The given folder; or the environment's BENCH_DATA; or a folder in the user's cache."""
    if folder is not None:
        return folder
    usual = os.environ.get("BENCH_DATA")
    return expanded(usual) if usual else cache_folder() / "data"


def cache_folder() -> Path:
    """For what can be made again."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moe-router-bench"


def expanded(path: str) -> Path:
    """The path with the user's home folder in the place of `~`.

    Raises:
        RequestError: there is no such user, or HOME is unset and the system knows no other.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{path}: {error} Write the path in full, or set HOME.") from None
