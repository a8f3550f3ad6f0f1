"""Human-readable numbers, and tables that fit a terminal."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 80
"""The fewest columns that a terminal has."""


def duration(seconds: float) -> str:
    """Return seconds as `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def clock(moment: datetime, now: datetime) -> str:
    """Return `07:42 CET` on the day of `now`, `Tue 07:42 CET` within 6 days, else with the date.

    Times are shown in this machine's time zone; a moment without a zone is assumed to be in it.
    """
    moment, now = moment.astimezone(), now.astimezone()
    days = abs((moment.date() - now.date()).days)
    day = "" if not days else "%a " if days < 7 else "%Y-%m-%d "
    return moment.strftime(f"{day}%H:%M %Z")


def first_line(text: str | None) -> str:
    """Return the first line that is not blank, without terminal control characters."""
    lines = (re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", line) for line in (text or "").splitlines())
    plain = (re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", line).strip() for line in lines)
    return next(filter(None, plain), "")


def wrapped(line: str, hang: str = "  ") -> list[str]:
    """Wrap a text at `WIDTH` columns, except longer words; all lines but the first hang."""
    indent = " " * (len(line) - len(line.lstrip())) + hang
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def size(amount: float) -> str:
    """Return bytes as `312 B`, `5.1 MB`, `2.4 GB`."""
    return _scaled(amount, (" B", " kB", " MB", " GB", " TB"))


def count(amount: float) -> str:
    """Return a number as `912`, `31.2k`, `5.38M`, `1.2G`; for parameters and steps."""
    return _scaled(amount, ("", "k", "M", "G", "T"))


def _scaled(amount: float, units: tuple[str, ...]) -> str:
    """Return three digits and the smallest unit for which they suffice; units grow by 1000."""
    for unit in units[:-1]:
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}{units[-1]}"


def flops(amount: float) -> str:
    """Return FLOPs as `7.1e11`, since they span too many orders of magnitude for units."""
    mantissa, exponent = f"{amount:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def table(*columns: str, right: str = "") -> Table:
    """Return a plain table; columns named in `right` (space-separated) are right-aligned."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right.split() else "left")
    return made


def add_grouped(made: Table, rows: Iterable[tuple[str, str, Sequence[str]]]) -> None:
    """Add rows of router, condition and cells, grouped by condition; rows without one are first."""
    groups: dict[str, list[tuple[str, Sequence[str]]]] = {}
    for router, condition, cells in rows:
        groups.setdefault(condition, []).append((router, cells))
    for condition, members in sorted(groups.items(), key=lambda group: group[0] != ""):
        for setting in condition.split():
            made.add_row(Text(setting, "italic"))
        for router, cells in members:
            made.add_row(f"  {router}" if condition else router, *cells)


def print_table(renderable: Any) -> None:
    """Print on standard output, 100 columns wide in a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    console.print(renderable)
