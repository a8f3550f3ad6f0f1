"""`status` and `why`: the state of a study's trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place

if TYPE_CHECKING:
    from bench.cli.standing import Standing

Study = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The study to show.", show_default="the last one requested"),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Follow the runs until they end, or until Ctrl-C.")
]
Digest = Annotated[
    bool,
    typer.Option(
        "--digest", help="Print the summary shown at the end of a run: news, failures, the best."
    ),
]
Trial = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL", help="The beginning of a trial's fingerprint, as `status` shows it."
    ),
]


def status(place: Place, study: Study = None, watch: Watch = False, digest: Digest = False) -> None:
    """Show the state of a study, while it runs in another terminal or after it has ended or died.

    \b
    Examples:
      python bench.py status
      python bench.py status --study tiny --watch
      python bench.py status --digest
    """
    if watch and digest:
        raise typer.BadParameter("--watch and --digest cannot be combined")
    with place.store() as store:
        name = store.find_study(study).name
        if digest:
            place.load()
            from bench.cli.digest import digest as text

            print(text(store, name, place.home))
            return
        from bench.cli.standing import follow, read_standing

        if watch:
            try:
                follow(store, name)
            except KeyboardInterrupt:
                return
        print_standing(read_standing(store, name), place.home)


def print_standing(standing: Standing, home: Path) -> None:
    """Print the run and its workers, each trial, and notes on some trials."""
    from bench.cli.display import duration, first_line, print_table, table
    from bench.cli.standing import text_of
    from results.conditions import router_label
    from results.frames import older_sentence

    print(text_of(standing))
    made = table("trial", "router", "seed", "status", "time", right="seed time")
    for row in standing.trials.itertuples():
        time = "" if row.seconds != row.seconds else duration(row.seconds)
        started = row.parent and f"started from {row.parent[:10]}"
        router = router_label(row.router, row.aa_replicate)
        label = "\n  ".join(filter(None, (router, row.condition, started)))
        state = f"{row.status.replace('_', ' ')}{' §' * row.older}"
        made.add_row(row.trial[:10], label, str(row.seed), state, time)
    print()
    print_table(made)
    if older := older_sentence(standing.trials):
        print(f"\n§ {older}")
    for row in standing.trials.itertuples():
        if row.error:
            print(f"\n{row.trial[:10]} {row.status.replace('_', ' ')}: {first_line(row.error)}")
        if row.note:
            print(f"{row.trial[:10]} note: {row.note}")
        if row.error and row.log:
            print(f"  log: {home / row.log}")
    failed = standing.measurements[standing.measurements["status"] == "failed"]
    for row in failed.itertuples():
        print(f"\n{row.trial[:10]} {row.suite} failed: {first_line(row.error)}")


def why(place: Place, trial: Trial) -> None:
    """Say why a stored trial would or would not be reused now.

    \b
    Example:
      python bench.py why 3f9a2c
    """
    place.load()
    from bench.plan import explain

    with place.store() as store:
        for line in explain(store.find_trial(trial), store):
            print(line)
