"""Tables as Markdown and as CSV."""

import csv
import io
from collections.abc import Callable

from report.table import ARROWS, Cell, Column, Row, Table, parted


def cell_parts(column: Column, cell: Cell, row: Row) -> tuple[str, str]:
    """Return a cell's value or words and the text after it: `81.2` and ` ± 0.4 (n=2)`.

    The number of runs is shown only if it differs from that of the column or the row.
    """
    if cell.value is None:
        return cell.words, ""
    same = cell.n is None or cell.n == (column.n or row.n)
    runs = "" if same else f" (n={cell.n})"
    return column.number(cell.value), interval_text(column, cell) + runs


def interval_text(column: Column, cell: Cell) -> str:
    """Return a cell's interval, ` ± 0.4` or ` [0.8, 1.9]`; "" if its width rounds to 0."""
    if cell.low is None or cell.high is None:
        return ""
    if cell.bracketed:
        low, high = column.number(cell.low), column.number(cell.high)
        return "" if low == high else f" [{low}, {high}]"
    half = column.number((cell.high - cell.low) / 2)
    return "" if half == column.number(0) else f" ± {half}"


def plain_cell(column: Column, cell: Cell, row: Row) -> str:
    """Return the text of one cell: `81.2 ± 0.4 (n=2)†`."""
    return "".join([*cell_parts(column, cell, row), *cell.marks])


def to_markdown(table: Table) -> str:
    """Return a GitHub table with its title above and its caption and notes below."""

    def text(column: Column, cell: Cell, row: Row) -> str:
        shown = plain_cell(column, cell, row).replace("|", "\\|").replace("\n", " ")
        return f"**{shown}**" if cell.best else shown

    heads = [column.heading.replace("|", "\\|") + ARROWS[column.better] for column in table.columns]
    rules = [":---" if column.words else "---:" for column in table.columns]
    lines = [f"### {table.title}", "", _pipes(heads), _pipes(rules)]
    lines += [_pipes(_each(table, row, text)) for row in table.rows]
    summary, details = parted(table.caption)
    lines += ["", " ".join([summary, *table.notes]), ""]
    lines += [details, ""] if details else []
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """Return one line per row, in base units: each number with its interval and number of runs."""
    heads: list[str] = []
    for column in table.columns:
        endings = () if column.words else ("_low", "_high", "_n", "_marks")
        heads += [column.key, *(f"{column.key}{ending}" for ending in endings)]
    lines = []
    for row in table.rows:
        line: list[object] = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            numbers = [cell.value, cell.low, cell.high, cell.n]
            line += [cell.words] if column.words else [*numbers, "".join(cell.marks)]
        lines.append(line)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([heads, *lines])
    return text.getvalue()


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _each(table: Table, row: Row, text: Callable[[Column, Cell, Row], str]) -> list[str]:
    return [text(column, cell, row) for column, cell in zip(table.columns, row.cells, strict=True)]
