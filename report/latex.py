"""Tables as LaTeX: booktabs, and siunitx columns that align numbers at their decimal points.

A table that is wider than a page is split into several, one below the other, that begin with the
same columns. Nothing is shrunk.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from report.render import cell_parts
from report.table import ARROWS, Cell, Column, Row, Table, parted

_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": r"\textendash{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\mathsection$",
    "¶": r"$^\mathparagraph$",
    "‖": r"$^\parallel$",
    "≈": r"$^\approx$",
    "₂": r"\textsubscript{2}",
    "…": r"\ldots{}",
    "Ŷ": r"$\hat{Y}$",
}
_SYMBOL = re.compile(r"(H_[su]|I\(E;[YŶ]\))")
_HAT = r"\hat{Y}"


_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"',
    "\u030c": "v", "\u030a": "r", "\u0327": "c",
}  # fmt: skip
_LETTERS = (
    "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta ιiota κkappa λlambda μmu νnu ξxi πpi "
    "ρrho σsigma τtau υupsilon φphi χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma "
    "ΦPhi ΨPsi ΩOmega"
)
_GREEK = {each[0]: each[1:] for each in _LETTERS.split()}


def latex_text(text: str) -> str:
    """Return `text` in ASCII, escaped so that LaTeX sees no command in it.

    A character without a glyph in plain LaTeX is written as its code point, `U+72AC`.
    """
    composed = unicodedata.normalize("NFC", text)
    # Two hyphens would be typeset as a dash.
    return "".join(map(_latex_char, composed)).replace("--", "-{}-")


def _latex_char(char: str) -> str:
    if char in _LATEX or char.isascii():
        return _LATEX.get(char, char if char.isprintable() else " ")
    base, *marks = list(unicodedata.normalize("NFD", char))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    if char in _GREEK:
        return rf"$\{_GREEK[char]}$"
    return f"U+{ord(char):04X}"


def latex_heading(text: str) -> str:
    """Escape a heading, with the symbols of entropy and mutual information set as mathematics."""
    parts = enumerate(_SYMBOL.split(text))
    return "".join(
        f"${part.replace('Ŷ', _HAT)}$" if place % 2 else latex_text(part) for place, part in parts
    )


LINE = 120
"""Characters of \footnotesize in a line of 6.75 in."""
GAP = 2
"""Characters between two columns."""
PROSE = 26
"""Columns with longer words than this many characters are wrapped."""
NARROWEST = 18
"""The least number of characters in a line of a wrapped column."""
ONE_PAGE = 62
"""The most lines of a table that is kept on one page, its caption included."""
PACKAGES = r"""\usepackage{booktabs,longtable,array}
\usepackage{siunitx}
\sisetup{group-digits=none, reset-text-series=false, text-series-to-math=true,
  table-align-text-after=false}"""
"""The packages and settings that a document with these tables needs."""
_NUMBER = re.compile(r"−?(\d+)(\.\d+)?")


@dataclass(frozen=True)
class _Cells:
    """A column as LaTeX: its heading, its cells, their width in characters and their alignment."""

    heading: str
    cells: tuple[str, ...]
    width: int
    shape: str = ""
    words: bool = False

    @property
    def prose(self) -> bool:
        """Whether its words are wrapped."""
        return not self.shape


def to_latex(table: Table) -> str:
    """Return a table for pages 6.75 in wide: `table*`, or `longtable` if it needs several pages."""
    columns = [_column(table, place) for place in range(len(table.columns))]
    parts = _split(columns)
    summary, _ = parted(table.caption)
    caption = latex_heading(" ".join([f"{table.title}.", summary, *table.notes]))
    titled = rf"\caption{{{caption}}}\label{{tab:{table.name}}}"
    needs = [f"% needs {line}" for line in PACKAGES.splitlines()]
    small = r"\footnotesize\setlength{\tabcolsep}{4pt}"
    if _lines(parts) + len(caption) // LINE <= ONE_PAGE:
        tabulars = [
            "\n".join([
                rf"\begin{{tabular}}{{@{{}}{_shapes(part)}@{{}}}}",
                *_head(part), *_body(part), r"\bottomrule", r"\end{tabular}",
            ])
            for part in parts
        ]  # fmt: skip
        body = "\n\n\\medskip\n".join(tabulars)
        lines = [r"\begin{table*}", r"\centering", titled, small, body, r"\end{table*}"]
        return "\n".join([*needs, *lines, ""])
    lines = [r"{" + small]
    for part in parts:
        lines.append(rf"\begin{{longtable}}{{@{{}}{_shapes(part)}@{{}}}}")
        lines += [titled + r"\\"] if part is parts[0] else []
        lines += [*_head(part), r"\endhead", *_body(part), r"\bottomrule", r"\end{longtable}"]
    return "\n".join([*needs, *lines, "}", ""])


def _column(table: Table, place: int) -> _Cells:
    column = table.columns[place]
    heading = column.heading + ARROWS[column.better]
    pairs = [(row.cells[place], row) for row in table.rows]
    if not column.words:
        return _numbers(column, heading, pairs)
    texts = [cell.words.replace("\n", " ") + "".join(cell.marks) for cell, _ in pairs]
    shown = [_bold(latex_text(t), cell) for t, (cell, _) in zip(texts, pairs, strict=True)]
    prose = any(len(text) > PROSE and " " in text for text in texts)
    if prose:
        shown = [re.sub(r"(\\_|=|/)", r"\1\\allowbreak{}", text) for text in shown]
    width = max(map(len, [heading, *texts]))
    return _Cells(latex_heading(heading), tuple(shown), width, "" if prose else "l", words=True)


def _numbers(column: Column, heading: str, pairs: Sequence[tuple[Cell, Row]]) -> _Cells:
    """Align numbers at their decimal points, and the text after them, such as ±, at its start."""
    shown, widths, whole, longest = [], [len(heading)], 1, ""
    for cell, row in pairs:
        value, rest = cell_parts(column, cell, row)
        rest += "".join(cell.marks)
        widths.append(len(value + rest))
        number = _NUMBER.fullmatch(value)
        if cell.value is None or number is None:
            shown.append("{" + _bold(latex_text(value + rest), cell) + "}")
            continue
        whole = max(whole, len(value.partition(".")[0]))
        longest = max(longest, rest, key=len)
        after = "{" + latex_text(rest) + "}" if rest else ""
        shown.append((r"\bfseries " if cell.best else "") + value.replace("−", "-") + after)
    digits = f".{column.digits}" if column.digits else ""
    space = f", table-space-text-post={{{latex_text(longest)}}}" if longest else ""
    shape = f"S[table-format={whole}{digits}{space}]"
    return _Cells("{" + latex_heading(heading) + "}", tuple(shown), max(widths), shape)


def _bold(text: str, cell: Cell) -> str:
    return rf"\textbf{{{text}}}" if cell.best else text


def _split(columns: Sequence[_Cells]) -> list[list[_Cells]]:
    """Split columns into tables no wider than a page, all starting with the first text columns."""
    end = 1
    while end < len(columns) - 1 and columns[end].words and not columns[end].prose:
        end += 1
    lead = list(columns[:end])
    parts, own = [], list(lead)
    for each in columns[len(lead) :]:
        if len(own) > len(lead) and _least([*own, each]) > LINE:
            parts.append(own)
            own = list(lead)
        own.append(each)
    return [*parts, own]


def _least(columns: Sequence[_Cells]) -> int:
    """Return the least number of characters that columns take side by side."""
    return sum((NARROWEST if each.prose else each.width) + GAP for each in columns) - GAP


def _shapes(columns: Sequence[_Cells]) -> str:
    """Return the specification of columns; wrapped ones share the width that the others leave."""
    prose = [each for each in columns if each.prose]
    left = max(0, LINE - _least(columns))
    wanted = sum(each.width - NARROWEST for each in prose)
    shapes = []
    for each in columns:
        if each.prose:
            more = min(each.width - NARROWEST, left * (each.width - NARROWEST) / wanted)
            share = (NARROWEST + more) / LINE
            shapes.append(rf">{{\raggedright\arraybackslash}}p{{{share:.3f}\textwidth}}")
        else:
            shapes.append(each.shape)
    return "".join(shapes)


def _lines(parts: Sequence[Sequence[_Cells]]) -> int:
    """Estimate the number of lines that tables take, one below the other."""
    lines = 0
    for part in parts:
        for cells in zip(*(each.cells for each in part), strict=True):
            broken = [len(cell) for cell, each in zip(cells, part, strict=True) if each.prose]
            lines += 1 + max(broken, default=0) // NARROWEST
    return lines + 3 * len(parts)


def _head(columns: Sequence[_Cells]) -> list[str]:
    return [r"\toprule", " & ".join(each.heading for each in columns) + r" \\", r"\midrule"]


def _body(columns: Sequence[_Cells]) -> list[str]:
    return [" & ".join(row) + r" \\" for row in zip(*(c.cells for c in columns), strict=True)]
