"""Where data sets lie that no command named a folder for."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(data_dir: str | None) -> Path:
    """`data_dir`; or the environment's BENCH_DATA; or a folder in the user's cache."""
    given = data_dir or os.environ.get("BENCH_DATA")
    return Path(given).expanduser() if given else cache_folder() / "data"


def cache_folder() -> Path:
    """For what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "moe-router-bench"
