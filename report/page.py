"""The web page: one file that asks the network for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from report import provenance
from report.figures.canvas import COLUMN, Drawing
from report.links import Links
from report.logs import Logs, readable
from report.parts import Absent, said_once
from report.remarks import remarks
from report.render import cell_parts
from report.study import StudyData
from report.summary import compared, findings
from report.svg import inline
from report.tables.table import ARROWS, Cell, Column, Row, Table
from report.topics import FAILURES, SECTIONS, Section, generic
from report.undone import undone

Part = Table | Drawing | Absent
PROSE = (
    *("reason", "note", "claim", "systems", "scale", "source", "scale of the source", "test"),
    *("supported if", "contradicted if", "not tested, since"),
)
"""Columns whose words are broken into lines."""


def make_page(
    study: StudyData,
    tables: Sequence[Table | Absent],
    figures: Sequence[Drawing | Absent],
    logs: Logs,
) -> str:
    """The page as HTML."""
    parts = [("table", part) for part in tables] + [("figure", part) for part in figures]
    cards = provenance.router_cards(study)
    sections = [*SECTIONS, *map(generic.section, generic.cards(study)), FAILURES]
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            study=study,
            compared=compared(study),
            findings=findings(study),
            remarks=remarks(study),
            missing=said_once(p for _, p in parts if isinstance(p, Absent) and not p.fine),
            sections=[(section, *_chosen(section, parts)) for section in sections],
            cards=cards,
            bibtex=provenance.bibtex(cards),
            machines=provenance.machines(study),
            codes=provenance.codes(study),
            request=json.dumps(study.record.request, indent=2),
            undone=undone(study),
            logs=logs,
            links=Links(tables),
            made=datetime.now(UTC),
        )
    )


def _chosen(section: Section, parts: Sequence[tuple[str, Part]]) -> tuple[list[Part], list[Part]]:
    """The parts of a section; `figure:load` also names those that were made for a condition.

    What is missing is said once, and not folded away.
    """

    def named(names: Iterable[str]) -> list[Part]:
        return [
            part
            for name in names
            for kind, part in parts
            if f"{kind}:{part.name.partition('--')[0]}" == name
        ]

    shown, folded = named(section.shown), named(section.folded)
    absent = said_once(part for part in (*shown, *folded) if isinstance(part, Absent))
    there = [part for part in shown if not isinstance(part, Absent)]
    return [*there, *absent], [part for part in folded if not isinstance(part, Absent)]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        inline=inline,
        arxiv=_arxiv,
        breakable=_breakable,
        moment=_moment,
        paragraphs=_paragraphs,
        readable=readable,
    )
    environment.globals.update(
        arrows=ARROWS,
        cell_parts=cell_parts,
        prose=PROSE,
        hint=_hint,
        sort_key=_sort_key,
        column=COLUMN,
    )
    environment.tests.update(
        table=lambda part: isinstance(part, Table),
        drawing=lambda part: isinstance(part, Drawing),
    )
    return environment


def _hint(column: Column, cell: Cell, row: Row) -> str:
    """What a reader sees who points at a number."""
    if cell.value is None:
        return ""
    runs = cell.n or column.n or row.n
    if cell.low is None or cell.high is None:
        return f"n = {runs}"
    ends = column.number(cell.low), column.number(cell.high)
    return f"n = {runs}, 95 % interval {ends[0]} to {ends[1]}"


def _sort_key(cell: Cell) -> Any:
    return cell.words if cell.value is None else repr(cell.value)


def _breakable(text: str) -> Markup:
    """`text` that may be broken after an underscore."""
    return Markup("_<wbr>").join(text.split("_"))


def _arxiv(text: str) -> Markup:
    """`text` with each arXiv id as a link."""
    link = r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">\1</a>'
    return Markup(re.sub(r"\b(\d{4}\.\d{4,5})\b", link, str(escape(text))))


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def _moment(moment: datetime) -> str:
    return f"{moment:%-d %B %Y, %H:%M} UTC"
