"""Tables and whole reports as LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.latex import LINE, latex_heading, latex_text, to_latex
from report.table import MISSING, OUTSIDE, Cell, Column, Row, assemble, words


def table_of(columns, rows):
    return assemble("demo", "A demo", "What it shows: 100 % of it.", columns, rows)


def rows_of(text):
    """Return the cells of each line of a table, its heading among them."""
    return [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if " & " in line]


def test_numbers_are_aligned_at_their_decimal_points_and_tex_commands_are_escaped():
    columns = [
        Column("router", "router", words=True),
        Column("top1", "top-1", "%", "higher", 100, 1, ranked=True),
        Column("p", "p", digits=3, p_value=True),
        Column("time", "time", "×"),
    ]
    rows = [
        Row((
            words("soft_moe", OUTSIDE), Cell(0.871, 0.861, 0.881, 3, best=True), Cell(1e-7, n=3),
            Cell(1.5, 1.4, 1.9, 3, bracketed=True),
        ), 3),
        Row((words("my|gate & co"), Cell(0.5, n=1), words(MISSING), Cell(-12.0, n=3)), 3),
    ]  # fmt: skip
    text = to_latex(table_of(columns, rows))
    assert rows_of(text.replace(r"\& co", "and co")) == [
        ["router", r"{top-1 (\%) $\uparrow$}", "{p}", r"{time ($\times$)}"],
        [r"soft\_moe$^\dagger$", r"\bfseries 87.1{ $\pm$ 1.0}", r"{\textless{}0.001}",
         "1.50{ [1.40, 1.90]}"],
        [r"my\textbar{}gate and co", "50.0{ (n=1)}", r"{\textendash{}}", "-12.00"],
    ]  # fmt: skip
    assert r"S[table-format=2.1, table-space-text-post={ $\pm$ 1.0}]" in text
    assert "S[table-format=3.2, table-space-text-post={ [1.40, 1.90]}]" in text
    assert r"100 \% of it" in text
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:demo}"):
        assert text.count(command) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 2))
def test_a_wide_table_becomes_several_with_the_same_first_columns(widths, more):
    lead = [Column(f"lead{place}", f"lead{place}", words=True) for place in range(1 + more)]
    columns = [*lead, *(Column(f"c{n}", f"c{n}".ljust(w, "x")) for n, w in enumerate(widths))]
    row = Row((*(words("a") for _ in lead), *(Cell(1.0, n=1) for _ in widths)), 1)
    text = to_latex(table_of(columns, [row]))
    heads = [head for head, _ in zip(*[iter(rows_of(text))] * 2, strict=True)]
    assert all(head[: len(lead)] == [column.label for column in lead] for head in heads)
    shown = [heading.strip("{}") for head in heads for heading in head[len(lead) :]]
    assert shown == [column.label for column in columns[len(lead) :]]
    for head in heads:
        assert (
            len(head) == len(lead) + 1
            or len("  ".join(head).replace("{", "").replace("}", "")) <= LINE
        )


def test_sentences_are_broken_into_lines_and_long_names_are_not():
    columns = [Column("id", "id", words=True), Column("claim", "claim", words=True)]
    rows = [Row((words("a_name_without_a_blank_that_is_long"), words("a sentence " * 9)))]
    text = to_latex(table_of(columns, rows))
    assert re.search(r"@\{\}l>\{\\raggedright\\arraybackslash\}p\{0\.\d+\\textwidth\}@", text)


def test_a_table_longer_than_a_page_continues_on_the_next():
    rows = [Row((words("a"), Cell(float(number), n=1)), 1) for number in range(100)]
    text = to_latex(table_of([Column("router", "router", words=True), Column("x", "x")], rows))
    assert text.count(r"\begin{longtable}") == text.count(r"\endhead") == 1
    assert "table*" not in text


def test_every_latex_table_of_a_report_is_well_formed(written):
    for path in written.paths.tables:
        if path.suffix == ".tex":
            text = path.read_text(encoding="utf-8")
            body = re.sub(r"\\[{}]", "", text)
            assert body.count("{") == body.count("}")
            assert text.count(r"\begin{") == text.count(r"\end{")
            plain = re.sub(r"\$.*?\$", "", text.replace(r"\label{tab:" + path.stem, ""))
            assert not re.search(r"(?<!\\)_", plain)
            assert text.isascii()


def test_entropies_are_typeset_as_mathematics(written):
    paths = {path.name: path.read_text(encoding="utf-8") for path in written.paths.tables}
    assert "{$H_s$ (bit)} & {$H_u$ (bit)} & {$I(E;Y)$" in paths["entropy.tex"]
    assert r"$I(E;\hat{Y})$" in latex_heading("I(E;Ŷ) corr.")


@given(st.text())
def test_no_text_can_start_a_latex_command_or_comment(text):
    escaped = latex_text(text)
    assert escaped.isascii()
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}", "", escaped)
    plain = re.sub(r"\\(textless|textgreater|textbar|textendash|ldots)\{\}", "", plain)
    plain = re.sub(r"\\textsubscript\{2\}", "", plain)
    plain = re.sub(r"\$(-|\\hat\{Y\}|\^?\\[A-Za-z]+)\$", "", plain)
    plain = plain.replace("-{}-", "--")
    plain = re.sub(r"\\[`'^~\"vrc]\{[A-Za-z]\}", "", plain)
    assert not re.search(r"(?<!\\)[&%$#_{}]|[~^\\](?![&%$#_{}])", plain)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("é", r"\'{e}"),
        ("Å", r"\r{A}"),
        ("λ", r"$\lambda$"),
        ("犬", "U+72AC"),
        ("\t", " "),
        ("e\u0301", r"\'{e}"),
        ("--seeds", "-{}-seeds"),
        ("1–2", r"1\textendash{}2"),
    ],
)
def test_letters_that_latex_knows_are_kept_and_others_become_codes(text, latex):
    assert latex_text(text) == latex


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_plain_latex_installation_typesets_the_whole_report(written, tmp_path):
    folder = shutil.copytree(written.paths.folder, tmp_path / "paper")
    for _ in range(2):  # the second pass knows the numbers of tables and figures
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "report.log").read_text(encoding="latin-1")
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(too_wide, default=0.0) < 12
    assert "too large" not in log, "a float that no page holds"
    assert "undefined" not in log.replace("There were undefined references", "")
    assert "Type 3" not in log
