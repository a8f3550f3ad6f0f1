"""`status` and `why`: how a study stands, and why a trial is reused or not."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.place import Place, command

Study = Annotated[
    str | None,
    typer.Option(
        "--study", metavar="NAME", help="Which study.", show_default="the one asked for last"
    ),
]
Trial = Annotated[
    str,
    typer.Argument(metavar="TRIAL", help="The beginning of its fingerprint, as `status` shows."),
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app)(status)
    command(app)(why)


def status(place: Place, study: Study = None) -> None:
    """Show how the trials of a study stand.

    \b
    Examples:
      python bench.py status
      python bench.py status --study tiny
    """
    from bench.cli.words import duration, show, table
    from results.frames import trials_frame

    with place.store() as store:
        name = store.find_study(study).name
        trials = trials_frame(store, name)
    print(f"Study {name}\n")
    made = table("trial", "router", "seed", "status", "time", right="seed time")
    for row in trials.itertuples():
        time = "" if row.seconds != row.seconds else duration(row.seconds)
        started = row.parent and f"started from {row.parent[:10]}"
        label = "\n  ".join(filter(None, (row.router, row.condition, started)))
        made.add_row(row.trial[:10], label, str(row.seed), row.status.replace("_", " "), time)
    show(made)
    counts = trials["status"].value_counts()
    print("\n" + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()))
    for row in trials[trials["error"].notna()].itertuples():
        print(f"{row.trial[:10]} {row.status.replace('_', ' ')}: {row.error}")


def why(place: Place, trial: Trial) -> None:
    """Say why a stored trial would be reused now, or not.

    \b
    Example:
      python bench.py why 3f9a2c
    """
    place.load()
    from bench.why import explain
    from results.identities import find_trial

    with place.store() as store:
        for line in explain(find_trial(store, trial), store):
            print(line)
