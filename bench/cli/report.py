"""`report`: tables, figures and the web page of a study, and where its numbers come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place
from bench.cli.status import Study

if TYPE_CHECKING:
    from report.numbers import Trace
    from results import Store

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="The folder to write to.", show_default="reports/STUDY in the home"
    ),
]
Number = Annotated[
    tuple[str, str, str] | None,
    typer.Option(
        metavar="TABLE ROW COLUMN", help="Print the trials behind a number; write nothing."
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="List each number of a written report that the database no longer supports, and each "
        "file that was changed or deleted since.",
    ),
]
Claims = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Claims of your own (YAML), tested in addition to the papers'."
    ),
]
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="A B",
        help="Compare two studies, or one before and after a change of code: A and B are each "
        "STUDY, STUDY@COMMIT or STUDY@TIME. Prints paired differences and what changed; writes "
        "compare.md and compare.csv.",
    ),
]


def report(
    place: Place,
    study: Study = None,
    out: Out = None,
    claims: Claims = None,
    trace: Number = None,
    check: Check = None,
    compare: Compare = None,
) -> None:
    """Write the tables, figures and web page of a study.

    Writes tables as Markdown, LaTeX and CSV, figures as PNG and PDF, one HTML page with them all,
    and report.tex, which pdflatex compiles. It reads only the database: no plugin, data or GPU is
    needed.

    \b
    Examples:
      python bench.py report
      python bench.py report --study tiny --out paper/tables
      python bench.py report --claims mine.yaml
      python bench.py report --trace main soft_moe top-1
      python bench.py report --check paper/tables
      python bench.py report --compare tiny mine
      python bench.py report --compare tiny@3f9a2c tiny@81b0de

      python bench.py report --compare tiny@2026-05-04T18:00 tiny

    The last two compare tiny before and after a change of code: STUDY@COMMIT is the study as it
    stood after that commit's last result, STUDY@TIME as it stood at that time. A changed file of
    your own has no commit here, so give a time. --compare tiny tiny lists the versions that made
    tiny.
    """
    for option, value, ignored in (
        ("check", check, {"trace": trace, "out": out, "claims": claims, "study": study}),
        ("trace", trace, {"out": out}),
        ("compare", compare, {"trace": trace, "check": check, "claims": claims, "study": study}),
    ):
        for other, its in ignored.items():
            if value is not None and its is not None:
                raise typer.BadParameter(f"--{option} and --{other} do not go together")
    with place.store() as store:
        if check is not None:
            _check(store, check)
            return
        if compare is not None:
            from bench.cli.compare import compare_studies

            compare_studies(store, compare, out, place.home)
            return
        from report.claims import own_claims
        from report.numbers import trace as traced
        from report.study import load_study
        from routers.errors import RequestError

        own = () if claims is None else own_claims(claims)
        if trace is not None:
            _print_trace(traced(store, load_study(store, study, own), *trace))
            return
        from report.write import write_report

        name = store.find_study(study).name
        folder = out or place.home / "reports" / name
        try:
            paths = write_report(store, name, folder, place.home, own)
        except OSError as error:
            raise RequestError(
                f"cannot write the report into {folder}: {error}; --out names another folder"
            ) from error
        print(f"\nreport: {paths.index_html}")


def _check(store: Store, folder: Path) -> None:
    """Exit with 1 if a number no longer holds, or a file is not as it was written."""
    from report.write import check

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


def _print_trace(traced: Trace) -> None:
    """Print the number, then two lines for each of its trials: its identity and its value."""
    print(f"{traced.number.label}: {traced.number.shown}")
    print(f"from {len(traced.sources)} trial{'s' if len(traced.sources) != 1 else ''}")
    for source in traced.sources:
        seed = f"seed {source.seed}" if source.seed else ""
        named = (source.router, source.condition, seed, source.status)
        text = ", ".join(filter(None, named))
        value = f": {source.value}" if source.value else ""
        print("\n" + "  ".join(filter(None, (source.trial, f"{text}{value}"))))
        parts = ("machine", "code", "log", "checkpoint")
        known = [f"{part} {getattr(source, part)}" for part in parts if getattr(source, part)]
        print("    " + ", ".join(known))
