"""Tables: rows of cells that carry their interval and their number of seeds.

`Absent` takes the place of a table or figure for which a study has no data.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log10
from typing import Literal

from report.conditions import ANY, Entry, System
from results.conditions import Condition
from results.groups import grouped
from results.statistics.means import mean_interval

MISSING = "–"
NOT_APPLICABLE = "n/a"
OUTSIDE = "†"
CONSTANT = "‡"
OLDER = "§"
DISTURBED = "¶"
DEPENDENT = "‖"
TIED = "≈"
SEVERAL = "several"
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
"""The suffix of a column's heading, by the direction that is better."""
NOTES = {
    OUTSIDE: "{}: at least one run missed its budget by more than the tolerance.",
    DEPENDENT: "{}: in evaluation the answer to an image depends on the other images of its batch.",
    TIED: "{}: the best mean under a condition, or not resolved from it.",
    CONSTANT: "{}: constant by construction, so it says nothing about the router.",
    DISTURBED: "{}: timed while other processes kept the machine busy; their load is in the "
    "table of timings. To time it again, run the same command with another "
    "suites.throughput.seconds and a --study of its own.",
    NOT_APPLICABLE: "{}: the suite has nothing to measure there.",
    SEVERAL: "{}: compared under several conditions; see the paired differences to the nulls.",
    MISSING: "{}: not measured.",
}

LONGEST = 100
"""How many letters of a condition the name of a file holds at most."""
_PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z"]


@dataclass(frozen=True)
class Column:
    """One column. A value is shown as `value * scale` with `digits` decimals, in `unit`.

    `n` is the number of runs of its cells if that differs from the row's. The best means of a
    `ranked` column are marked (see `report.marks`). A `p_value` that would round to 0 is shown as
    below the smallest number with these decimals, such as `<0.001`.
    """

    key: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    scale: float = 1.0
    digits: int = 2
    si: bool = False
    words: bool = False
    n: int | None = None
    ranked: bool = False
    p_value: bool = False

    @property
    def scope(self) -> str:
        """The unit and the number of runs, if the column has them."""
        return ", ".join(filter(None, (self.unit, f"n={self.n}" if self.n else "")))

    @property
    def heading(self) -> str:
        """The label with the unit and the number of runs."""
        return f"{self.label} ({self.scope})" if self.scope else self.label

    def number(self, value: float) -> str:
        shown = f"{value * self.scale:.{self.digits}f}"
        if self.p_value and float(shown) == 0:
            return f"<{10.0**-self.digits:.{self.digits}f}"
        return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


@dataclass(frozen=True)
class Cell:
    """A number with its interval, its number of runs `n` and its marks; or words.

    `bracketed` shows the interval by its two ends, because it is not symmetric about the value.
    `trials` are the fingerprints of the trials or of the bare layer behind the number; `values`
    are their individual values, if each contributes exactly one.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    words: str = ""
    marks: tuple[str, ...] = ()
    best: bool = False
    bracketed: bool = False
    trials: tuple[str, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """The cells of one row and their subject.

    `n` is the number of runs of every cell that has none of its own. Means are compared within
    each condition of `under`; `reference` is what the entry is compared with.
    """

    cells: tuple[Cell, ...]
    n: int | None = None
    entry: Entry | None = None
    under: tuple[Condition, ...] = (ANY,)
    reference: Entry | None = None


@dataclass(frozen=True)
class Table:
    """A table, ready to be rendered. `caption` explains the numbers."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def notes(self) -> list[str]:
        """The meanings of the marks that its cells use."""
        shown = {
            mark for row in self.rows for cell in row.cells for mark in (*cell.marks, cell.words)
        }
        return [note.format(mark) for mark, note in NOTES.items() if mark in shown]

    def cell(self, row: int, key: str) -> Cell:
        """Return the cell in column `key` of row number `row`."""
        keys = [column.key for column in self.columns]
        return self.rows[row].cells[keys.index(key)]


def text_columns(*keys: str, **labels: str) -> tuple[Column, ...]:
    """Make columns of words: first those headed by their keys, then those with other labels."""
    heads = {key: key for key in keys} | labels
    return tuple(Column(key, label, words=True) for key, label in heads.items())


def words(text: str, *marks: str, trials: Sequence[str] = ()) -> Cell:
    return Cell(words=text, marks=marks, trials=tuple(trials))


def number(value: float | None, n: int | None = None, trials: Sequence[str] = ()) -> Cell:
    """Make the cell of a number without an interval, or `MISSING` if the number is None."""
    return words(MISSING) if value is None else Cell(value, n=n, trials=tuple(trials))


def summary(
    values: Sequence[float],
    *marks: str,
    trials: Sequence[str] = (),
    confidence: float = 0.95,
) -> Cell:
    """Make the cell of the mean of `values` with its interval, or `MISSING` if none is finite.

    Args:
        trials: the fingerprints of the trials that gave the values, in their order.
    """
    finite = [float(value) for value in values if isfinite(value)]
    if not finite:
        return words(MISSING)
    interval = mean_interval(finite, confidence)
    return Cell(
        interval.mean,
        interval.low,
        interval.high,
        interval.n,
        marks=marks,
        trials=tuple(trials),
        values=tuple(map(float, values)),
    )


def assemble(
    name: str, title: str, caption: str, columns: Iterable[Column], rows: Iterable[Row]
) -> Table:
    """Make a table, leaving out empty columns and giving each SI column one prefix."""
    kept_columns, kept_cells = [], []
    listed = list(rows)
    for index, column in enumerate(columns):
        cells = [row.cells[index] for row in listed]
        if all(cell.value is None and (not column.words or not cell.words) for cell in cells):
            continue
        fitted = _with_prefix(column, cells) if column.si else column
        kept_columns.append(fitted)
        kept_cells.append(cells)
    finished = tuple(
        replace(row, cells=tuple(cells))
        for row, cells in zip(listed, zip(*kept_cells, strict=True), strict=True)
    )
    return Table(name, title, caption, tuple(kept_columns), finished)


def _with_prefix(column: Column, cells: Sequence[Cell]) -> Column:
    largest = max(abs(cell.value) for cell in cells if cell.value is not None)
    power = 0 if largest < 1 else min(int(log10(largest) + 1e-12) // 3, len(_PREFIXES) - 1)
    return replace(column, scale=10.0 ** (-3 * power), unit=_PREFIXES[power] + column.unit)


@dataclass(frozen=True)
class Absent:
    """A table or figure that the study has no data for. `fine`: it is not supposed to have any."""

    name: str
    title: str
    why: str
    fine: bool = False


class Lacking(Exception):
    """Raised if a study lacks the data of a table or figure. `fine`: it need not have them."""

    def __init__(self, why: str, fine: bool = False) -> None:
        super().__init__(why)
        self.fine = fine


def missing(parts: Iterable[object]) -> list[Absent]:
    """Return the parts of a report that the study should have but lacks."""
    return [part for part in parts if isinstance(part, Absent) and not part.fine]


def said_once(parts: Iterable[Absent]) -> list[Absent]:
    """Merge the parts that are missing for the same reason into one that names them all."""
    by_reason = grouped(((part.why, part.fine), part) for part in parts)
    return [
        replace(alike[0], title="; ".join(dict.fromkeys(part.title for part in alike)))
        for alike in by_reason.values()
    ]


DETAILS = "\n\n"
"""The separator in a caption between its summary and the details, which the page folds away."""


def captioned(summary: str, *details: str) -> str:
    """Return a caption made of a summary, of at most three sentences, and details."""
    rest = " ".join(filter(None, details))
    return f"{summary}{DETAILS}{rest}" if rest else summary


def parted(caption: str) -> tuple[str, str]:
    """Return the summary and the details of a caption, "" if it has no details."""
    summary, _, details = caption.partition(DETAILS)
    return summary, details


def with_warning(caption: str, warning: str) -> str:
    """Add a sentence to the summary of a caption."""
    summary, details = parted(caption)
    return captioned(f"{summary} {warning}", details)


def file_name(name: str, condition: Condition | str) -> str:
    """Return the name of a part made once per condition, in letters, digits, `.`, `-` and `_`."""
    label = str(condition)
    ending = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
    # A minus sign and what is not ASCII would be lost, and a file system takes 255 bytes.
    if re.search(r"=-|\+|[^ -~]", label) or len(ending) > LONGEST:
        ending = f"{ending[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{name}--{ending}" if ending else name


def title(text: str, condition: Condition | str) -> str:
    """Add the condition, if there is one, to a title."""
    return f"{text}, {condition}" if condition else text


def panel_title(text: str, entry: Entry, drawn: Iterable[Entry]) -> str:
    """Add the condition to a panel's title if the router is drawn under several."""
    several = sum(other.system == entry.system for other in drawn) > 1
    return title(text, entry.condition if several else "")


def number_of_runs(runs: Mapping[System, int]) -> str:
    """Return how many runs each system has: `n = 3; soft_moe n = 2`."""
    usual = Counter(runs.values()).most_common(1)[0][0]
    unusual = [f"{system} n = {n}" for system, n in runs.items() if n != usual]
    return "; ".join([f"n = {usual}", *unusual])
