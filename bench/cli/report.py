"""`report`: tables, figures and the web page of a study, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place, command
from bench.cli.status import Study

if TYPE_CHECKING:
    from report.claims.claims import Claim
    from report.numbers import Source, Trace
    from results import Store

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Where to write.", show_default="reports/STUDY in the home"
    ),
]
Number = Annotated[
    tuple[str, str, str] | None,
    typer.Option(
        "--trace",
        metavar="TABLE ROW COLUMN",
        help="Print the trials behind a number, and write nothing.",
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(
        "--check",
        metavar="FOLDER",
        help="Name each number of a written report that the database no longer supports, and each "
        "file that was changed or deleted since.",
    ),
]
Claims = Annotated[
    Path | None,
    typer.Option(
        "--claims",
        metavar="FILE",
        help="Claims of your own (YAML), tested beside those of the papers.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    command(app)(report)


def report(
    place: Place,
    study: Study = None,
    out: Out = None,
    claims: Claims = None,
    trace: Number = None,
    check: Check = None,
) -> None:
    """Write the tables, figures and web page of a study.

    Tables in Markdown, LaTeX and CSV, figures in PNG and PDF, one HTML page with them all. It
    reads the database alone: no plugin, no data and no GPU is needed.

    \b
    Examples:
      python bench.py report
      python bench.py report --study tiny --out paper/tables
      python bench.py report --claims mine.yaml
      python bench.py report --trace main soft_moe top-1
      python bench.py report --check paper/tables
    """
    _refuse_contradictions(study=study, out=out, claims=claims, trace=trace, check=check)
    with place.store() as store:
        if check is not None:
            _check(store, check)
        elif trace is not None:
            _trace(store, study, claims, trace)
        else:
            name = store.find_study(study).name
            _write(store, name, out or place.home / "reports" / name, place.home, claims)


def _refuse_contradictions(**options: object) -> None:
    """Refuse options of which one would be ignored."""
    without = {"check": ("trace", "out", "claims", "study"), "trace": ("out",)}
    for option, others in without.items():
        for other in others:
            if options[option] is not None and options[other] is not None:
                raise typer.BadParameter(f"--{option} and --{other} do not go together")


def _write(store: Store, study: str, folder: Path, home: Path, claims: Path | None) -> None:
    from report import write_report
    from routers.errors import RequestError

    own = _own(claims)
    try:
        paths = write_report(store, study, folder, home, own)
    except OSError as error:
        raise RequestError(
            f"cannot write the report into {folder}: {error}; --out names another folder"
        ) from error
    print(f"\nreport: {paths.index_html}")


def _own(claims: Path | None) -> tuple[Claim, ...]:
    from report.claims.claims import own_claims

    return () if claims is None else own_claims(claims)


def _check(store: Store, folder: Path) -> None:
    """Exit with 1 where a number no longer holds, or a file is not as it was written."""
    from report.check import check

    checked = check(store, folder)
    for line in (*checked.wrong, *checked.edited):
        print(line)
    numbers = f"{checked.numbers} numbers of {folder} (study {checked.study})"
    if checked.wrong:
        print(f"\n{len(checked.wrong)} of the {numbers} no longer hold.")
    if checked.edited:
        print(f"\n{len(checked.edited)} of its {checked.files} files are not as they were written.")
    if checked.wrong or checked.edited:
        raise typer.Exit(1)
    print(f"The database supports each of the {numbers}.")
    print(f"Its {checked.files} files are as they were written.")


def _trace(
    store: Store, study: str | None, claims: Path | None, place: tuple[str, str, str]
) -> None:
    from report.load import load_study
    from report.numbers import trace

    traced = trace(store, load_study(store, study, _own(claims)), *place)
    for line in _lines(traced):
        print(line)


def _lines(traced: Trace) -> Iterator[str]:
    """Yield the number, then two lines for each of its trials."""
    number, several = traced.number, len(traced.sources) != 1
    yield f"{number.label}: {number.shown}"
    yield f"from {len(traced.sources)} trial{'s' if several else ''}"
    for source in traced.sources:
        yield ""
        yield "  ".join(filter(None, (source.trial, _source_text(source))))
        parts = ("machine", "code", "log", "checkpoint")
        known = [f"{part} {getattr(source, part)}" for part in parts if getattr(source, part)]
        yield "    " + ", ".join(known)


def _source_text(source: Source) -> str:
    """Return which trial it is, and what it gave: `soft_moe, seed 0, done: 86.0`."""
    seed = f"seed {source.seed}" if source.seed else ""
    trial = ", ".join(filter(None, (source.router, source.condition, seed, source.status)))
    return f"{trial}: {source.value}" if source.value else trial
