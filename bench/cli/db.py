"""`db`: show, upgrade, merge, verify and export the database."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place, command

if TYPE_CHECKING:
    from bench.tune import MergedTunings
    from results.merge import Disagreement, Merged

MOST_DISAGREEMENTS = 30
"""The most rows of disagreements that are printed."""

Export = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="The file to write, .csv or .parquet.")
]
EventFiles = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write each trial's curves as TensorBoard event files, instead of a table.",
    ),
]
OneStudy = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only this study.", show_default="all studies")
]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="DATABASE", help="SQLite files or URLs; they are only read."),
]


def add_to(app: typer.Typer) -> None:
    """Register the `db` commands."""
    group = typer.Typer(
        help="The database: info, upgrade, merge, verify, export.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for function in (info, upgrade, merge, verify, export):
        command(group)(function)
    app.add_typer(group, name="db")


def info(place: Place) -> None:
    """Show what the database holds.

    \b
    Example:
      python bench.py db info
    """
    from bench.cli.display import clock, print_table, size, table
    from results import describe

    with place.store() as store:
        about = describe(store)
    now = datetime.now()
    print(f"{about.url}\n{size(about.size_bytes)}, schema {about.schema}")
    if about.last_write is not None:
        print(f"last written {clock(about.last_write, now)}")
    if about.working:
        print(f"{about.working} {'run is' if about.working == 1 else 'runs are'} using it now")
    print()
    rows = table("table", "rows", right="rows")
    for name, number in about.rows.items():
        rows.add_row(name, str(number))
    print_table(rows)
    if about.studies:
        print()
        studies = table("study", "trials", "layers", "last requested", right="trials layers")
        for study in about.studies:
            asked = clock(study.requested_at, now)
            studies.add_row(study.name, str(study.trials), str(study.layers), asked)
        print_table(studies)


def upgrade(place: Place) -> None:
    """Upgrade a database of an older version to the current schema.

    \b
    Example:
      python bench.py db upgrade --db old/bench.db
    """
    from results.migrate import upgrade as upgrade_database

    before, now = upgrade_database(place.database)
    print(f"{place.shown}: schema {before or 'none'} -> {now}")


def merge(place: Place, sources: Sources) -> None:
    """Add the contents of other databases, such as those of other machines, to the database.

    Equal trials become one. Each measurement stays with its machine, and results of one trial that
    differ are shown. Merging again changes nothing. Weights and logs next to a SQLite file are
    copied into the home folder. The settings that `tune` tried are merged from the tuning.db next
    to it, so that `run --tuned` uses them. If a router was tuned differently under the same name,
    this is shown, and the database keeps its own.

    \b
    Examples:
      python bench.py db merge node1/bench.db node2/bench.db
      python bench.py db merge node1/bench.db node2/bench.db --db all.db
    """
    from bench.tune import merge_tunings
    from results.merge import disagreements, merge_all

    merged = merge_all(place.database, sources, place.home)
    for each in merged:
        print(_brought(each))
    tunings = merge_tunings(place.database, sources)
    for line in chain.from_iterable(map(_tuning_lines, tunings)):
        print(line)
    if not any([*(each.is_new for each in merged), *(each.is_new for each in tunings)]):
        print(f"nothing was changed: there is nothing new for {place.shown}")
    trials = {trial for each in merged for trial in each.trials}
    with place.store() as store:
        differing = disagreements(store, trials)
    if differing:
        _print_disagreements(differing)


def _brought(merged: Merged) -> str:
    """Return a few lines about what a source added."""
    from results.text import counted

    nouns = {name: (name[:-1], name) for name in merged.added if "_" not in name}
    nouns |= {"code_versions": ("code version", "code versions"), "studies": ("study", "studies")}
    numbers = [counted(n, *nouns[name]) for name, n in merged.added.items() if name in nouns]
    lines = [f"new: {', '.join(numbers)}" if numbers else "nothing new"]
    if merged.folders:
        lines.append(f"copied the weights of {counted(merged.folders, 'trial')}")
    if merged.unfinished:
        left_out = counted(merged.unfinished, "attempt that has", "attempts that have")
        lines.append(f"left out {left_out} not ended")
    wrap = partial(textwrap.fill, width=80, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([merged.source, *map(wrap, lines)])


def _tuning_lines(merged: MergedTunings) -> Iterator[str]:
    """Yield lines about what was added from a source's tunings, and what was left out."""
    from bench.cli.display import wrapped
    from results.text import counted

    for search in merged.searches:
        tuning, _, router = search.name.partition("/")
        if search.difference is not None:
            yield from wrapped(
                f"left out {merged.source}'s tuning {tuning} of {router}, which differs: "
                f"{search.difference}"
            )
        elif search.added:
            new = counted(search.added, "training")
            yield f"tuning {tuning} of {router}: {new} from {merged.source}"
    for tuning in merged.missing:
        yield from wrapped(
            f"left out the settings of tuning {tuning}: {merged.source} has no tuning beside "
            "it; copy its tuning.db there, and merge again"
        )


def _print_disagreements(differing: Sequence[Disagreement]) -> None:
    """Print the differing results of equal trials, one row per metric."""
    from bench.cli.display import print_table, table
    from results.text import counted

    trials = counted(len({each.trial for each in differing}), "trial")
    print(
        f"\nResults of {trials} differ between attempts that should agree. All are kept,\n"
        "each with its machine; a report uses the attempt that began last. The largest\n"
        "differences, one number per metric:\n"
    )
    rows = table("trial", "metric", "earliest", "other", "difference", right="difference")
    rows.columns[0].overflow = "fold"
    for each in differing[:MOST_DISAGREEMENTS]:
        seed = "" if each.seed is None else f" seed {each.seed}"
        value, other_value = _distinct(each.value, each.other_value)
        rows.add_row(
            f"{each.trial[:10]}{seed}\n{each.router}",
            f"{each.suite} {each.metric}\n{each.place}".rstrip(),
            f"{value}\n{each.machine}",
            f"{other_value}\n{each.other_machine}",
            f"{100 * each.size:.2g} %\n{each.differing} of {each.numbers}",
        )
    print_table(rows)
    if len(differing) > MOST_DISAGREEMENTS:
        more = counted(len(differing) - MOST_DISAGREEMENTS, "metric")
        print(f"\n… and {more} with smaller differences; `db export` writes all values")


def _distinct(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with four digits, or with nine if four do not distinguish them."""
    texts = [(f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in (4, 9)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[-1])


def verify(place: Place) -> None:
    """Find what is wrong with the database and its weights; nothing is changed.

    Finds rows that refer to missing rows or belong to nothing, arrays that cannot be read, and
    weights in the home folder that are not as they were written or that no attempt has trained.
    The exit status is 1 if something is wrong.

    \b
    Example:
      python bench.py db verify
    """
    from bench.cli.display import print_table, table
    from bench.execute import verify_weights
    from results import open_store
    from results.text import counted
    from results.verify import verify_rows

    with open_store(place.database, create=False, read_only=True) as store:
        print(store.url)
        faults = verify_rows(store)
        damaged = any(fault.kind == "database file" for fault in faults)
        weights = None if damaged else verify_weights(store, place.home)
    if weights is None:
        print("the file itself is damaged, so neither rows nor weights were checked")
    else:
        faults += weights.faults
        files = counted(weights.checked, "file")
        print(f"{files} of weights {'is' if weights.checked == 1 else 'are'} as written")
    if weights and weights.absent:
        absent = counted(weights.absent, "trial are", "trials are")
        print(f"the weights of {absent} missing: a suite that needs them trains again")
    if not faults:
        print("nothing is wrong")
        return
    made = table("what", "where", "why")
    for column in made.columns[1:]:
        column.overflow = "fold"
    for fault in faults:
        made.add_row(fault.kind, fault.what, fault.why)
    print()
    print_table(made)
    print(f"\n{counted(len(faults), 'fault')}; nothing was changed")
    raise typer.Exit(1)


def export(
    place: Place,
    path: Export = None,
    study: OneStudy = None,
    tensorboard: EventFiles = None,
) -> None:
    """Write one tidy table with one row per metric.

    Each row has its study, suite, router, hyper-parameters, seed, layer, step, split and
    environment.

    \b
    Examples:
      python bench.py db export results.csv
      python bench.py db export results.parquet --study tiny
      python bench.py db export --tensorboard runs/tensorboard
    """
    if (path is None) == (tensorboard is None):
        raise typer.BadParameter("name either a FILE or --tensorboard FOLDER")
    with place.store() as store:
        if tensorboard is not None:
            from results.event_files import write_event_files
            from results.text import counted

            trials = counted(write_event_files(store, tensorboard, study), "trial")
            print(f"wrote the curves of {trials}; to see them:\n")
            print(f"tensorboard --logdir {shlex.quote(str(tensorboard))}")
        elif path is not None:
            from results.frames import export as write

            print(f"wrote {write(store, path, study)}")
