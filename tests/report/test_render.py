"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io

import pytest

from report.render import to_csv, to_markdown
from report.table import MISSING, OUTSIDE, Cell, Column, Row, assemble, words


@pytest.fixture
def table():
    columns = [
        Column("router", "router", words=True),
        Column("top1", "top-1", "%", "higher", 100, 1, ranked=True),
        Column("p", "p", digits=3, p_value=True),
        Column("time", "time", "×"),
        Column("empty", "empty"),
    ]
    rows = [
        Row((
            words("soft_moe", OUTSIDE), Cell(0.871, 0.861, 0.881, 3, best=True), Cell(1e-7, n=3),
            Cell(1.5, 1.4, 1.9, 3, bracketed=True), words(MISSING),
        ), 3),
        Row((
            words("my|gate & co"), Cell(0.5, n=1), words(MISSING), Cell(-0.001, n=3),
            words(MISSING),
        ), 3),
    ]  # fmt: skip
    return assemble("demo", "A demo", "What it shows: 100 % of it.", columns, rows)


def test_markdown(table):
    assert to_markdown(table).splitlines() == [
        "### A demo",
        "",
        "| router | top-1 (%) ↑ | p | time (×) |",
        "| :--- | ---: | ---: | ---: |",
        "| soft_moe† | **87.1 ± 1.0** | <0.001 | 1.50 [1.40, 1.90] |",
        "| my\\|gate & co | 50.0 (n=1) | – | 0.00 |",
        "",
        "What it shows: 100 % of it. †: at least one run missed its budget by more than the "
        "tolerance. –: not measured.",
    ]


def test_csv_keeps_every_number_in_base_units_with_its_interval_and_its_n(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert rows[0]["router"] == "soft_moe"
    assert [float(rows[0][f"top1{end}"]) for end in ("", "_low", "_high", "_n")] == [
        0.871, 0.861, 0.881, 3,
    ]  # fmt: skip
    assert rows[1]["top1_low"] == ""
    assert rows[1]["top1_n"] == "1"


def test_every_number_of_a_report_has_its_n(written):
    for name, table in written.tables.items():
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell.value is not None:
                    assert cell.n is not None, (name, row.entry.label, column.key)


def test_the_written_files_hold_the_tables(written):
    kinds = {path.suffix for path in written.paths.tables}
    assert kinds == {".md", ".tex", ".csv"}
    assert len(written.paths.tables) == 3 * len(written.tables)
    text = next(p for p in written.paths.tables if p.name == "main.md").read_text(encoding="utf-8")
    assert text == to_markdown(written.tables["main"])
