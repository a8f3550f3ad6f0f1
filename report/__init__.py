"""Tables, figures and a web page of a study, from the results database alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

STATE_FILE = "state.txt"


def state_of(request: Mapping[str, Any], trials: pd.DataFrame, measurements: pd.DataFrame) -> str:
    """Hash a study's request, the rows of it that count, and the code that shows them.

    Args:
        request: how the settings were tuned is recorded only here.
        trials: see `trials_frame`.
        measurements: see `measurements_frame`.
    """
    of_trials = ["trial", "attempt", "status", "error", "condition", "older"]
    of_measurements = ["trial", "measurement", "status", "condition", "older"]
    rows = [
        json.dumps(request, sort_keys=True, default=str),
        trials[of_trials].to_csv(index=False),
        measurements[of_measurements].to_csv(index=False),
    ]
    sources = ("*.py", "*.yaml", "*.jinja", "*.css", "*.js", "*.mplstyle")
    files = sorted(file for pattern in sources for file in Path(__file__).parent.rglob(pattern))
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("\n".join([*rows, *code]).encode()).hexdigest()


def is_written(folder: Path, state: str) -> bool:
    """Tell whether a folder holds the report of exactly this state."""
    file = folder / STATE_FILE
    return (
        (folder / "index.html").exists()
        and file.exists()
        and file.read_text(encoding="utf-8") == state
    )
