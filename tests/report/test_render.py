"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io

import pytest

from report.latex import to_latex
from report.render import plain_cell, to_csv, to_markdown
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


def test_a_table_as_markdown(table):
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


@pytest.mark.parametrize(
    ("column", "cell", "shown"),
    [
        (Column("flops", "FLOPs"), Cell(123.56, 123.556, 123.564, 3), "123.56"),
        (Column("flops", "FLOPs"), Cell(123.56, 123.55, 123.57, 3), "123.56 ± 0.01"),
        (Column("top1", "top-1", scale=100), Cell(0.8, 0.79996, 0.80004, 2), "80.00 (n=2)"),
        (Column("steps", "steps", digits=0), Cell(400, 399.6, 400.4, 3), "400"),
        (Column("time", "time"), Cell(1.5, 1.499, 1.504, 3, bracketed=True), "1.50"),
        (Column("time", "time"), Cell(1.5, 1.499, 1.506, 3, bracketed=True), "1.50 [1.50, 1.51]"),
    ],
)  # fmt: skip
def test_an_interval_that_rounds_to_0_is_left_out_everywhere(column, cell, shown):
    row = Row((cell,), 3)
    made = assemble("one", "One", "", [column], [row])
    assert plain_cell(column, cell, row) == shown
    assert f"| {shown} |" in to_markdown(made)
    assert ("pm" in to_latex(made)) == ("±" in shown)
    (line,) = csv.DictReader(io.StringIO(to_csv(made)))
    assert (float(line[f"{column.key}_low"]), float(line[f"{column.key}_high"])) == (
        cell.low, cell.high,
    )  # fmt: skip


def test_csv_has_every_number_in_base_units_with_its_interval_and_n(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert rows[0]["router"] == "soft_moe"
    assert [float(rows[0][f"top1{end}"]) for end in ("", "_low", "_high", "_n")] == [
        0.871, 0.861, 0.881, 3,
    ]  # fmt: skip
    assert rows[1]["top1_low"] == ""
    assert rows[1]["top1_n"] == "1"


def test_every_number_in_a_report_has_its_n(written):
    for name, table in written.tables.items():
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell.value is not None:
                    assert cell.n is not None, (name, row.entry.label, column.key)


def test_the_written_files_contain_the_tables(written):
    kinds = {path.suffix for path in written.paths.tables}
    assert kinds == {".md", ".tex", ".csv"}
    assert len(written.paths.tables) == 3 * len(written.tables)
    text = next(p for p in written.paths.tables if p.name == "main.md").read_text(encoding="utf-8")
    assert text == to_markdown(written.tables["main"])
