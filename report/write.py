"""Writing a report into a folder (tables, figures, Markdown, web page), and checking it later."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import yaml

from report import STATE_FILE as STATE
from report.cells import READING
from report.claims import Claim
from report.latex import to_latex
from report.methods import methods_latex, methods_markdown
from report.numbers import FILE as NUMBERS
from report.numbers import Number, Printed, cells, from_json, numbers, to_json
from report.page import make_page
from report.paper import to_paper
from report.render import to_csv, to_markdown
from report.study import StudyData, load_study
from report.style import Drawing
from report.summary import changed, compared, findings, remarks, texts
from report.table import Absent, Table, missing
from report.topics import draw_figures, make_tables, provenance
from report.topics.traces import explorer
from report.topics.trials import Logs
from results import Store

MANIFEST = "manifest.json"
"""Each file with its SHA-256 (hex) and, for a table or figure, the fingerprints of its trials."""
PRESET = "preset.yaml"
"""The preset with every setting as it ran; `run --preset` trains the study again from it."""
IMAGES = ("png", "pdf")
RENDERERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
CONTEXT = 20
"""How many characters of a line a message shows before the first one that differs."""


@dataclass(frozen=True)
class ReportPaths:
    """The paths of a report's parts. `missing`: why a part could not be shown, by title."""

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
    """Write the report of a study (None: the most recently requested one) into a folder.

    An incomplete study gets a report of what is there.

    Args:
        home: the folder that paths of logs are relative to; the page links the logs found there.
        claims: the user's own, tested along with the published ones.

    Raises:
        StoreError: there is no such study; the message suggests the nearest name.
    """
    data = load_study(store, study, claims)
    asked = data.record.request.get("preset", {})
    preset = yaml.safe_dump(asked, sort_keys=False, allow_unicode=True, width=100)
    folder, logs = Path(folder), Logs(home, folder)
    tables, figures = make_tables(data), list(draw_figures(data))
    traces = explorer(data)
    written = [
        _write(folder / "tables" / f"{table.name}.{kind}", render(table))
        for table in _tables(tables)
        for kind, render in RENDERERS.items()
    ]
    drawn = [
        _write(folder / "figures" / f"{figure.name}.{kind}", figure.saved(kind))
        for figure in figures
        if isinstance(figure, Drawing)
        for kind in IMAGES
    ]
    others = []
    if bibtex := provenance.bibtex(provenance.router_cards(data)):
        others.append(_write(folder / "references.bib", bibtex + "\n"))
    page = _write(folder / "index.html", make_page(data, tables, figures, logs, traces))
    markdown = _write(folder / "report.md", _markdown(data, tables, figures))
    others += [
        _write(folder / "methods.md", methods_markdown(data)),
        _write(folder / "methods.tex", methods_latex(data)),
        _write(folder / PRESET, preset),
        _write(folder / "report.tex", to_paper(data, tables, figures, cites=bool(bibtex))),
    ]
    files = digests(folder, [*written, *drawn, *others, page, markdown])
    shown_texts = texts(data, _tables(tables))
    printed = Printed(data.name, _tables(tables), shown_texts, files, data.claims)
    _write(folder / NUMBERS, to_json(printed))
    _write(folder / MANIFEST, _manifest(data, files, _tables(tables), figures))
    _write(folder / STATE, data.state)  # last: it certifies that all of the above is written
    return ReportPaths(
        folder=folder,
        index_html=page,
        markdown=markdown,
        tables=tuple(written),
        figures=tuple(drawn),
        missing={part.title: part.why for part in missing([*tables, *figures, traces])},
    )


def page_of(study: StudyData, home: Path | str) -> str:
    """Return only the web page of a study, as HTML whose links to logs start at the home folder."""
    figures = list(draw_figures(study))
    return make_page(study, make_tables(study), figures, Logs(home, home), explorer(study))


def _tables(parts: Iterable[Table | Absent]) -> tuple[Table, ...]:
    return tuple(part for part in parts if isinstance(part, Table))


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def _manifest(
    study: StudyData,
    files: Mapping[str, str],
    tables: Sequence[Table],
    figures: Sequence[Drawing | Absent],
) -> str:
    """Return, as JSON, the files with their digests and the trials behind each table and figure."""
    behind = {
        f"tables/{table.name}": {t for row in table.rows for cell in row.cells for t in cell.trials}
        for table in tables
    }
    for figure in figures:
        if isinstance(figure, Drawing):
            shown = study.trials[study.trials["entry"].isin(figure.entries)]
            behind[f"figures/{figure.name}"] = set(shown["trial"])
    listed = {
        name: {"sha256": digest, "trials": sorted(behind.get(name.rpartition(".")[0], ()))}
        for name, digest in sorted(files.items())
    }
    return json.dumps({"study": study.name, "files": listed}, indent=1) + "\n"


def _markdown(
    study: StudyData, tables: Sequence[Table | Absent], figures: Sequence[Drawing | Absent]
) -> str:
    """Return the whole report, figures included, as one Markdown text."""
    parts = [f"# {study.name}", compared(study)]
    for finding in findings(study):
        parts.append(f"**{finding.headline}** {' '.join(finding.sentences)}")
    parts += remarks(study)
    sections: dict[str, Sequence[Table | Drawing | Absent]] = {"Tables": tables, "Figures": figures}
    for heading, own in sections.items():
        parts += [f"## {heading}", *([READING] if own is tables else [])]
        for part in own:
            if isinstance(part, Absent):
                what = "Nothing to show" if part.fine else "Missing"
                parts.append(f"### {part.title}\n\n{what}: {part.why}.")
            elif isinstance(part, Table):
                parts.append(to_markdown(part))
            else:
                image = f"![{part.title}](figures/{part.name}.png)"
                parts.append(f"### {part.title}\n\n{image}\n\n{part.caption}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


@dataclass(frozen=True)
class Checked:
    """The result of checking a report: how many numbers and files it has, and what is wrong.

    Attributes:
        wrong: a message for each number or text that the database does not support.
        edited: a message for each file that is missing or was changed after it was written.
    """

    study: str
    numbers: int
    files: int
    wrong: tuple[str, ...]
    edited: tuple[str, ...]


def check(store: Store, folder: Path) -> Checked:
    """Check a report: its files against their digests, its numbers against the database.

    Raises:
        StoreError: the folder holds no report, or the database no longer has its study.
    """
    printed = from_json(folder)
    study = load_study(store, printed.study, printed.claims)
    tables = _tables(make_tables(study))
    now = {_place(cell): cell for table in tables for cell in cells(table)}
    then = [number for table in printed.tables for number in numbers(table)]
    compared = ((number, _wrong(number, now.get(_place(number)))) for number in then)
    wrong = [f"{number.label}: {why}" for number, why in compared if why]
    wrong += changed(printed.texts, texts(study, tables))
    edited = tuple(_edited(folder, printed))
    return Checked(printed.study, len(then), len(printed.files), tuple(wrong), edited)


def _place(number: Number) -> tuple[str, str, str]:
    return number.table.name, number.row, number.column.key


def _wrong(number: Number, now: Number | None) -> str:
    """Return what is no longer true about a number, or "" if it still holds."""
    if now is None or (now.cell.value is None and not now.cell.words):
        return f"{number.shown} in the report, but the database has no such number now"
    if now.shown != number.shown:
        return f"{number.shown} in the report, {now.shown} in the database"
    if set(now.cell.trials) != set(number.cell.trials):
        return f"{number.shown} comes from other trials now"
    return ""


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 (hex) of a report's files, by path relative to its folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _edited(folder: Path, printed: Printed) -> Iterator[str]:
    """Yield a message for each file that is missing or differs from what was written."""
    there = {name: folder / name for name in printed.files if (folder / name).is_file()}
    now = digests(folder, there.values())
    by_file = {
        f"tables/{table.name}.{kind}": (render, table)
        for table in printed.tables
        for kind, render in RENDERERS.items()
    }
    for name, digest in printed.files.items():
        if name not in there:
            yield f"{name}: the file is missing"
        elif now[name] != digest:
            render, table = by_file.get(name, (None, None))
            where = _difference(there[name], render(table)) if render and table else ""
            yield f"{name}: the file was changed after it was written{where}"


def _difference(file: Path, written: str) -> str:
    """Quote the first line of a text file that differs from what was written, or return ""."""
    now = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, lines in enumerate(zip_longest(now, written.splitlines(), fillvalue=""), 1):
        if lines[0] != lines[1]:
            pairs = enumerate(zip(*lines, strict=False))
            first = next((i for i, (a, b) in pairs if a != b), min(map(len, lines)))
            start = max(0, first - CONTEXT)
            held, was = (repr(line[start : start + 3 * CONTEXT]) for line in lines)
            return f", line {number}: {held} in the file, {was} when written"
    return ""
