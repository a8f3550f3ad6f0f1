"""`report`: tables, figures and the web page of a study, from the database alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.place import Place, command
from bench.cli.progress import Study

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Where to write.", show_default="reports/STUDY in the home"
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    command(app)(report)


def report(place: Place, study: Study = None, out: Out = None) -> None:
    """Write the tables, figures and web page of a study.

    Tables in Markdown, LaTeX and CSV, figures in PNG and PDF, one HTML page with them all. It
    reads the database alone: no plugin, no data and no GPU is needed.

    \b
    Examples:
      python bench.py report
      python bench.py report --study tiny --out paper/tables
    """
    from report import write_report

    with place.store() as store:
        name = store.find_study(study).name
        paths = write_report(store, name, out or place.home / "reports" / name, place.home)
    print(f"\nreport: {paths.index_html}")
