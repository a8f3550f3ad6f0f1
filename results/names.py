"""What a study, or a tuning, may be called: its name becomes a folder of the home."""

from __future__ import annotations

import re

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
