"""What a written report shows: whether writing it again would give the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

FILE = "state.txt"
SOURCES = ("*.py", "*.yaml", "*.jinja", "*.css", "*.js")
SHOWN: dict[str, Sequence[str]] = {
    "trials": ("trial", "attempt", "status", "error", "condition", "older"),
    "measurements": ("trial", "measurement", "status", "condition", "older"),
}


def state_of(request: Mapping[str, Any], trials: pd.DataFrame, measurements: pd.DataFrame) -> str:
    """Hash what a study was asked for, which of its rows count, and the code that shows them.

    Args:
        request: how its settings were found stands there alone.
        trials: see `trials_frame`.
        measurements: see `measurements_frame`.
    """
    rows = [json.dumps(request, sort_keys=True, default=str)]
    rows += [
        frame[list(SHOWN[name])].to_csv(index=False)
        for name, frame in (("trials", trials), ("measurements", measurements))
    ]
    home = Path(__file__).parent
    files = sorted(file for pattern in SOURCES for file in home.rglob(pattern))
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("\n".join([*rows, *code]).encode()).hexdigest()


def is_written(folder: Path, state: str) -> bool:
    """Tell whether a folder holds the report of this very state."""
    file = folder / FILE
    return (
        (folder / "index.html").exists()
        and file.exists()
        and file.read_text(encoding="utf-8") == state
    )
