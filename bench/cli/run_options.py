"""How `run` and `tune` are done, and the exit status with which they end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.context import Place
from bench.cli.options import WorkOptions, names, seconds_of

if TYPE_CHECKING:
    from bench.execute import RunOptions, RunSummary
    from bench.plan import Retry


MOST_FILES = 10
"""Files that one message names."""


def run_options(place: Place, work: WorkOptions, retry: Retry = None) -> RunOptions:
    """Return how a run is done, from the command's options."""
    from bench.execute import RunOptions

    return RunOptions(
        jobs=work.jobs,
        devices=tuple(names(work.devices)),
        timeout=None if work.timeout is None else seconds_of(work.timeout),
        save_every=work.save_every,
        retry=retry,
        plugins=place.plugins,
        command=f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(['python', *sys.argv])}",
    )


def warn_of_files(place: Place) -> None:
    """Name the files that plugins read and that no fingerprint covers, each once."""
    from bench.execute import OPENED

    files = OPENED.unknown(place.plugins, place.home)
    if files:
        more = f", and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
        print(
            "warning: plugins read files that are no part of a trial's fingerprint; results are "
            "reused even where these have changed: "
            f"{', '.join(map(str, files[:MOST_FILES]))}{more}",
            file=sys.stderr,
        )


def leave(summary: RunSummary, wrong: Sequence[str] = ()) -> None:
    """End the command.

    Args:
        wrong: messages of what else went wrong.

    Raises:
        typer.Exit: with 130 where it was interrupted, with 1 where something failed or is left.
    """
    from bench.execute import SIGNALS

    for message in wrong:
        print(f"error: {message}", file=sys.stderr)
    if summary.left:
        print(f"left early: {summary.left}; the same command goes on", file=sys.stderr)
    if summary.left in SIGNALS.values():
        raise typer.Exit(130)
    if summary.failures or summary.left or wrong:
        raise typer.Exit(1)
