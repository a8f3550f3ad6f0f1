"""Text for people: numbers with their nouns, and names of files that are no UTF-8."""

from __future__ import annotations

import re

_LONE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    r"""`text` with what stands for a single byte, or for half a character, as an escape: `caf\xe9`.

    Python reads such a byte of a file's name as a surrogate, which no file can be written with.
    """
    return text if text.isascii() else _LONE.sub(_escape, text)


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 seed`, `1,200 seeds`, `2 studies`."""
    return f"{number:,.12g} {noun if number == 1 else plural or noun + 's'}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


LONGEST = 100
RULE = (
    f"a name is at most {LONGEST} letters, digits, '.', '-' and '_', and begins with none of "
    "'.' and '-'"
)


def fault_of(name: str) -> str:
    """Say why a text cannot name a study, with the nearest name that can; "" where it can."""
    if len(name) <= LONGEST and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return ""
    near = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:LONGEST].rstrip(".-")
    return f"{RULE}{f'; {near!r} would do' if near else ''}"
