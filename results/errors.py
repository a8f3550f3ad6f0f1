"""What goes wrong with a database, in one message that says how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StoreError(Exception):
    """The database cannot do what was asked. Commands end with `exit_status`."""

    exit_status = 2


def nearest(name: str, options: Iterable[str]) -> str:
    """End a message with the nearest of what there is, or all of it where none is near."""
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(repr(match) for match in close)}?"
    return f"; there is {', '.join(known)}" if known else "; there is none"
