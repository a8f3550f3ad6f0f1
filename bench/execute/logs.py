"""A log file for each job: all that its process prints, and what happens to it."""

from __future__ import annotations

import faulthandler
import os
import sys
from datetime import datetime
from pathlib import Path

TAIL_LINES, TAIL_BYTES = 40, 8_000


def log_to(path: Path) -> None:
    """From now on all output of this process, also of libraries, goes to the end of a file.

    So does the traceback of a crash in native code. The file is in UTF-8 whatever the locale says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    faulthandler.enable(file=2)


def log(text: str) -> None:
    """A line of the log, with the time."""
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}  {text}", flush=True)


def tail(path: Path) -> str | None:
    """The last lines of a log; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    return "\n".join(text.splitlines()[-TAIL_LINES:]) or None
