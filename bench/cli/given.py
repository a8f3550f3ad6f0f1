"""Options as people type them: lists and times."""

from __future__ import annotations

import re

import typer

AUTO = "auto"
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def names(text: str | None) -> list[str]:
    """The names in `a,b, c`; none where nothing is given.

    Raises:
        typer.BadParameter: a name is empty, or is given twice.
    """
    if text is None:
        return []
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if not name:
            raise typer.BadParameter(f"{text!r} has an empty name; write names as a,b,c")
        if found.count(name) > 1:
            raise typer.BadParameter(f"{text!r} has {name!r} twice")
    return found


def seeds_of(text: str | None) -> int | None:
    """A number of seeds; None where `auto` or nothing is given.

    Raises:
        typer.BadParameter: it is none of them.
    """
    if text is None or text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--seeds {text}: give a number from 1 on, or auto")
    return int(text)


def seconds_of(text: str) -> float:
    """Seconds in a time as `90`, `90s`, `30m`, `2.5h` or `1d`.

    Raises:
        typer.BadParameter: it is none, or not positive.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no time; write it as 90s, 30m, 2.5h or 1d")
    return float(found[1]) * UNITS[found[2]]
