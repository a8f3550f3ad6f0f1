"""The logs of trials, as a page that lies elsewhere links them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]")
"""Colours and other commands to a terminal."""


class Logs:
    """Log files by the name that the database has for them.

    Args:
        home: the folder that they are named from; None where it is not known.
        page: the folder of the page.
    """

    def __init__(self, home: Path | str | None, page: Path | str) -> None:
        self._home = None if home is None else Path(home).absolute()
        self._page = Path(page).absolute()

    def link(self, log: str) -> str | None:
        """Its address from the page; None where it does not lie under the home."""
        if not log or self._home is None or not (self._home / log).is_file():
            return None
        return quote(Path(os.path.relpath(self._home / log, self._page)).as_posix())


def readable(text: str) -> str:
    """A log without what only a terminal understands."""
    return _CONTROL.sub("", text)
