"""Errors that a user can mend: one message with the thing, the value and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something failed; the message says what. Commands end with `exit_status`."""

    exit_status = 1


class RequestError(BenchError):
    """The request was wrong; the message says how to mend it."""

    exit_status = 2


def with_article(noun: str) -> str:
    """`a SoftRouting`, `an ExpertChoiceRouting`."""
    return f"an {noun}" if noun[:1] in "AEIOUaeiou" else f"a {noun}"


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of an error message: the nearest valid names, or all of them where none is near.

    Args:
        name: what was asked for.
        options: what there is.
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(repr(match) for match in close)}?"
    return f"; there is {', '.join(known)}" if known else "; there is none"
