"""`report --compare`: two studies, or one before and after a change of code, on the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.display import WIDTH, wrapped

if TYPE_CHECKING:
    from report.compare.tables import Compared
    from results import Store

GAP = 2
SHOWN = {"n": "n", "a": "A", "b": "B", "difference": "B − A", "p_family": "p (family)"}
"""The columns that fit on a terminal, and their headings there."""


@dataclass(frozen=True)
class Line:
    """A row of a table on the terminal, with the note below it."""

    router: str
    condition: str
    cells: Sequence[str]
    note: str = ""


def compare_studies(store: Store, sides: tuple[str, str], out: Path | None, home: Path) -> None:
    """Print a comparison, and write it into the report folder of the second study.

    Raises:
        StoreError: a side does not exist, or the two have nothing in common.
        RequestError: the folder cannot be written.
    """
    from report.compare import compare
    from report.compare.tables import show, write
    from routers.errors import RequestError

    made = compare(store, *sides)
    shown = show(store, made)
    folder = out or home / "reports" / made.b.study
    print_comparison(shown)
    try:
        files = write(shown, folder)
    except OSError as error:
        raise RequestError(
            f"cannot write the comparison into {folder}: {error}; --out names another folder"
        ) from error
    print("\nwritten: " + "\n         ".join(map(str, files)))


def print_comparison(shown: Compared) -> None:
    """Print the tables, their notes, and what changed, 80 columns wide."""
    print(f"A  {shown.a}\nB  {shown.b}")
    if shown.top1 is not None:
        print("\nTop-1 in %, B − A in percentage points\n")
        _print_top1(shown)
        print()
        _print_text(shown.top1.caption)
    if shown.plain:
        print("\nB − A of other metrics, not tested\n")
        _print_plain(shown)
    if shown.notes:
        print()
    for note in shown.notes:
        _print_text(note)
    print("\nWhat changed (A → B)")
    for heading, lines in shown.changed:
        print(f"\n{heading}")
        for line in lines:
            print("\n".join(wrapped(f"  {line}")))


def _print_top1(shown: Compared) -> None:
    from report.render import plain_cell

    top1, rows = shown.top1, list[Line]()
    assert top1 is not None
    keys = {column.key: place for place, column in enumerate(top1.columns)}
    for change, row in zip(shown.changes, top1.rows, strict=True):
        places = [keys.get(key) for key in SHOWN]
        cells = [
            "" if at is None else plain_cell(top1.columns[at], row.cells[at], row) for at in places
        ]
        tested = {True: "yes", False: "no"}[change.resolved] if change.tests else ""
        verdict = "" if change.tests else change.verdict
        system = change.entry.label, change.entry.condition.label
        rows.append(Line(*system, (*cells, tested), verdict))
    _print_lines((*SHOWN.values(), "resolved"), rows)


def _print_plain(shown: Compared) -> None:
    """Print one row per system and one column per metric."""
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in shown.plain:
        router, condition, name, *_, difference = row.cells
        signed = f"{difference.value:+.3g}".replace("-", "−") if difference.value else "0"
        cells[router.words, condition.words][name.words] = signed + "".join(difference.marks)
    names = list(dict.fromkeys(row.cells[2].words for row in shown.plain))
    _print_lines(
        names, [Line(*key, [own.get(name, "") for name in names]) for key, own in cells.items()]
    )


def _print_lines(heads: Sequence[str], rows: Sequence[Line]) -> None:
    """Print a table; a name that is too long for its column gets its own line."""
    columns = zip(heads, *(row.cells for row in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    longest = max(len("router"), *(len(row.router) for row in rows))
    room = min(longest, WIDTH - sum(widths) - GAP * len(widths))

    def numbers(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "".join(" " * GAP + cell.rjust(width) for cell, width in pairs)

    print("router".ljust(room) + numbers(heads))
    print("─" * (room + sum(widths) + GAP * len(widths)))
    condition = ""
    for row in sorted(rows, key=lambda row: (row.condition != "", row.condition)):
        if row.condition != condition:
            condition = row.condition
            print()
            _print_text(condition)
        if len(row.router) > room:
            print(row.router)
        name = row.router if len(row.router) <= room else ""
        print((name.ljust(room) + numbers(row.cells)).rstrip())
        if row.note:
            print(f"  {row.note}")


def _print_text(text: str) -> None:
    print("\n".join(wrapped(text, hang="")))
