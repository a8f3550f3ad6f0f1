"""`db` and `doctor`: the database, and whether this machine is fit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.context import Place, command

Export = Annotated[Path, typer.Argument(metavar="FILE", help="To write; ends in .csv or .parquet.")]
Study = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="Only this study.", show_default="all studies"),
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    group = typer.Typer(
        help="The database: info, upgrade, export.", no_args_is_help=True, rich_markup_mode=None
    )
    command(group)(info)
    command(group)(upgrade)
    command(group)(export)
    app.add_typer(group, name="db")
    command(app)(doctor)


def info(place: Place) -> None:
    """Show what the database holds.

    \b
    Example:
      python bench.py db info
    """
    from bench.cli.display import clock, print_table, size, table
    from results.info import describe

    with place.store() as store:
        about = describe(store)
    now = datetime.now()
    print(f"{about.url}\n{size(about.size_bytes)}, schema {about.schema}")
    if about.last_write is not None:
        print(f"last written {clock(about.last_write, now)}")
    if about.working:
        print(f"{about.working} {'run works' if about.working == 1 else 'runs work'} on it now")
    print()
    rows = table("table", "rows", right="rows")
    for name, number in about.rows.items():
        rows.add_row(name, str(number))
    print_table(rows)
    if about.studies:
        print()
        studies = table("study", "trials", "layers", "last asked for", right="trials layers")
        for study in about.studies:
            asked = clock(study.requested_at, now)
            studies.add_row(study.name, str(study.trials), str(study.layers), asked)
        print_table(studies)


def upgrade(place: Place) -> None:
    """Bring a database of an older version to the schema of this one.

    \b
    Example:
      python bench.py db upgrade --db old/bench.db
    """
    from results.migrate import upgrade as upgrade_database

    before, now = upgrade_database(place.database)
    print(f"{place.database}: schema {before or 'none'} -> {now}")


def export(place: Place, path: Export, study: Study = None) -> None:
    """Write one tidy table, a row a metric.

    With study, suite, router, hyper-parameters, seed, layer, step, split and environment.

    \b
    Examples:
      python bench.py db export results.csv
      python bench.py db export results.parquet --study tiny
    """
    from results.frames import export as write

    with place.store() as store:
        print(f"wrote {write(store, path, study)}")


def doctor(place: Place) -> None:
    """Say what is fit on this machine and what is not.

    torch, device, data, database, disk, plugins. The exit status is 1 where a run would not work.

    \b
    Example:
      python bench.py doctor
    """
    from bench.cli.display import print_table
    from bench.cli.doctor import diagnose, healthy, render

    findings = diagnose(place.home, place.database, place.plugins)
    print_table(render(findings))
    if not healthy(findings):
        raise typer.Exit(1)
