"""The web page: one file that loads nothing from the network."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from report.board import board
from report.cells import READING
from report.render import cell_parts
from report.study import StudyData
from report.style import COLUMN, FAINT, GRID, INK, PAPER, Drawing
from report.summary import caveats, compared, findings, resolved_means
from report.table import ARROWS, Absent, Cell, Column, Row, Table, missing, parted, said_once
from report.topics import chosen, provenance, sections
from report.topics.traces import Explorer
from report.topics.trials import Logs, incomplete, readable

VENDOR = Path(__file__).parent / "vendor"
LISTS = ("trial", "layer")
"""Columns that name a row's trial or layer; their tables have one row per trial or layer."""


class Links:
    """Trials and bare layers on the page: each has a number, and rows that list it.

    Numbers rather than the ids of rows say what is behind a value: of many trials, they are much of
    a page's size.
    """

    def __init__(self, parts: Iterable[Table | Absent]) -> None:
        self._rows: dict[str, str] = {}
        for table in parts:
            if isinstance(table, Table):
                for number, row in enumerate(table.rows):
                    if listed := _listed(table, row):
                        self._rows.setdefault(listed, f"{table.name}-{number}")
        self._numbers = {trial: number for number, trial in enumerate(self._rows)}

    def of_row(self, table: Table, number: int) -> tuple[str, int] | None:
        """Return the id of a row and the number of what it lists; None of any other row."""
        listed = _listed(table, table.rows[number])
        return (f"{table.name}-{number}", self._numbers[listed]) if listed else None

    def behind(self, trials: Iterable[str]) -> tuple[str, list[int]] | None:
        """Return the id of the first row that lists these trials, and their numbers."""
        listed = [trial for trial in trials if trial in self._rows]
        if not listed:
            return None
        return self._rows[listed[0]], [self._numbers[trial] for trial in listed]


def _listed(table: Table, row: Row) -> str | None:
    """Return the trial or layer that a row of `table` lists; None where it is of several."""
    keys = [column.key for column in table.columns]
    cells = [row.cells[keys.index(key)] for key in LISTS if key in keys]
    return next((cell.trials[0] for cell in cells if cell.trials), None)


THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--rule)", PAPER: "var(--paper)"}


def inline(drawing: Drawing) -> Markup:
    """Return the figure as an `<svg>` element without prolog, namespaces or fixed size."""
    text = drawing.saved("svg").decode()
    text = text[text.index("<svg") :]
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    # Ids must be unique on a page of many figures; only glyphs and clip paths need theirs.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] * (match[1] in used), text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", text)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = f'<svg role="img" aria-label="{escape(drawing.title)}"'
    return Markup(text.replace("<svg", label, 1))


PROSE = (
    *("reason", "note", "claim", "systems", "scale", "source", "scale of the source", "test"),
    *("supported if", "contradicted if", "not tested, since"),
)
"""Columns whose text is wrapped."""


def make_page(
    study: StudyData,
    tables: Sequence[Table | Absent],
    figures: Sequence[Drawing | Absent],
    logs: Logs,
    explorer: Explorer | Absent,
) -> str:
    """Return the web page of a study as HTML."""
    router_cards = provenance.router_cards(study)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            study=study,
            compared=compared(study),
            findings=findings(study),
            caveats=caveats(study),
            resolved=resolved_means(study),
            board=board(study, tables, logs),
            missing=said_once(missing([*tables, *figures, explorer])),
            explorer=None if isinstance(explorer, Absent) else explorer,
            sections=[(each, *chosen(each, tables, figures)) for each in sections(study)],
            cards=router_cards,
            bibtex=provenance.bibtex(router_cards),
            machines=provenance.machines(study),
            codes=provenance.codes(study),
            request=json.dumps(study.record.request, indent=2),
            incomplete=incomplete(study),
            newest=provenance.newest(study),
            logs=logs,
            links=Links(tables),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters.update(
        inline=inline,
        arxiv=_arxiv,
        breakable=_breakable,
        linked=_linked,
        moment=lambda moment: f"{moment:%-d %B %Y, %H:%M} UTC",
        paragraphs=lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
        readable=readable,
    )
    environment.globals.update(
        arrows=ARROWS,
        cell_parts=cell_parts,
        prose=PROSE,
        hint=_hint,
        column=COLUMN,
        vendored=_vendored,
        parted=parted,
        reading=READING,
    )
    environment.tests.update(
        table=lambda part: isinstance(part, Table), drawing=lambda part: isinstance(part, Drawing)
    )
    return environment


def _hint(column: Column, cell: Cell, row: Row) -> str:
    """Say what a reader sees who points at a number."""
    runs = cell.n or column.n or row.n
    if cell.low is None or cell.high is None:
        return f"n = {runs}"
    ends = column.number(cell.low), column.number(cell.high)
    return f"n = {runs}, 95 % interval {ends[0]} to {ends[1]}"


def _breakable(text: str) -> Markup:
    """Return `text` with a possible line break after each underscore."""
    return Markup("_<wbr>").join(text.split("_"))


def _arxiv(text: str) -> Markup:
    """Return `text` with each arXiv id as a link."""
    link = r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">\1</a>'
    return Markup(re.sub(r"\b(\d{4}\.\d{4,5})\b", link, str(escape(text))))


def _linked(text: str) -> Markup:
    """Link the "… more" of a shortened list to the table with the rest (see `cells.listed`)."""
    link = r'<a href="#table-\2">\1</a>'
    return Markup(re.sub(r"(\d+ more) \(tables/([\w-]+)\.csv\)", link, str(escape(text))))


def _vendored(name: str) -> Markup:
    """Return a library's file, without the address of its source map, which is not shipped."""
    text = (VENDOR / name).read_text(encoding="utf-8")
    return Markup(re.sub(r"//# sourceMappingURL=.*", "", text))
