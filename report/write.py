"""Writes a report: tables, figures, a Markdown text and a web page, in one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from report import STATE_FILE as STATE
from report.claims import Claim
from report.contents import draw_figures, make_tables
from report.numbers import FILE as NUMBERS
from report.numbers import Printed, to_json
from report.page import make_page
from report.render import texts, to_csv, to_latex, to_markdown
from report.study import StudyData, load_study
from report.style import Drawing
from report.summary import compared, findings, remarks
from report.table import Absent, Table
from report.topics import provenance
from report.topics.provenance import aged_figure, aged_table
from report.topics.trials import Logs
from results import Store

RENDERERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
IMAGES = ("png", "pdf")


@dataclass(frozen=True)
class ReportPaths:
    """Where the parts of a report lie. `missing`: what it could not show, and why, by title."""

    folder: Path
    index_html: Path
    markdown: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    missing: dict[str, str]


def write_report(
    store: Store,
    study: str | None,
    folder: Path | str,
    home: Path | str | None = None,
    claims: tuple[Claim, ...] = (),
) -> ReportPaths:
    """Write the report of a study (None: of the one that was asked for last) into a folder.

    A study that lacks something gets the report of what it has.

    Args:
        home: the folder that logs are named from; the page links those that lie there.
        claims: of the user's own, tested beside the published ones.

    Raises:
        StoreError: there is no such study; the message names the nearest.
    """
    data = load_study(store, study, claims)
    folder, logs = Path(folder), Logs(home, folder)
    made = make_tables(data)
    tables = [aged_table(part, data) for part in made]
    figures = [aged_figure(part, data) for part in draw_figures(data)]
    written = _write_tables(tables, folder / "tables")
    drawn = _write_figures(figures, folder / "figures")
    others = []
    if bibtex := provenance.bibtex(provenance.router_cards(data)):
        others.append(_write(folder / "references.bib", bibtex + "\n"))
    absent = [p for p in (*tables, *figures) if isinstance(p, Absent) and not p.fine]
    page = _write(folder / "index.html", make_page(data, tables, figures, logs))
    markdown = _write(folder / "report.md", _markdown(data, tables, figures))
    files = digests(folder, [*written, *drawn, *others, page, markdown])
    shown_texts = texts(data, _tables(made))
    printed = Printed(data.name, _tables(tables), shown_texts, files, data.claims)
    _write(folder / NUMBERS, to_json(printed))
    _write(folder / STATE, data.state)  # last, since it says that all of the above is written
    return ReportPaths(
        folder=folder,
        index_html=page,
        markdown=markdown,
        tables=tuple(written),
        figures=tuple(drawn),
        missing={part.title: part.why for part in absent},
    )


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Hash the content of files of a report: SHA-256 (hex) by path, relative to its folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _write_tables(tables: list[Table | Absent], folder: Path) -> list[Path]:
    return [
        _write(folder / f"{table.name}.{kind}", render(table))
        for table in _tables(tables)
        for kind, render in RENDERERS.items()
    ]


def _tables(parts: list[Table | Absent]) -> tuple[Table, ...]:
    return tuple(part for part in parts if isinstance(part, Table))


def _write_figures(figures: list[Drawing | Absent], folder: Path) -> list[Path]:
    return [
        _write(folder / f"{figure.name}.{kind}", figure.saved(kind))
        for figure in figures
        if isinstance(figure, Drawing)
        for kind in IMAGES
    ]


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def _markdown(
    study: StudyData, tables: list[Table | Absent], figures: list[Drawing | Absent]
) -> str:
    """Return the whole report as one Markdown text that shows the figures beside it."""
    parts = [f"# {study.name}", compared(study)]
    for finding in findings(study):
        under = f" ({finding.condition})" if finding.condition else ""
        told = " ".join(finding.sentences)
        parts.append(f"**Best{under}: {finding.system}, {finding.accuracy}.** {told}")
    parts += remarks(study)
    parts.append("## Tables")
    parts += [_absent(part) if isinstance(part, Absent) else to_markdown(part) for part in tables]
    parts.append("## Figures")
    parts += [_absent(part) if isinstance(part, Absent) else _shown(part) for part in figures]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _shown(drawing: Drawing) -> str:
    image = f"![{drawing.title}](figures/{drawing.name}.png)"
    return f"### {drawing.title}\n\n{image}\n\n{drawing.caption}"


def _absent(part: Absent) -> str:
    return f"### {part.title}\n\n{'Nothing to show' if part.fine else 'Missing'}: {part.why}."
