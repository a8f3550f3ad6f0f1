"""Arrays of workers on the command line: submitted, followed, and left running on Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.cli.context import Place
from bench.cli.live import PLAIN_SECONDS
from bench.cli.options import WorkOptions
from bench.cli.standing import SECONDS, Monitor, board_of, drawn, run_lines
from bench.config import ClusterConfig, Preset, cluster_config
from bench.execute import (
    ArrayRecord,
    in_array,
    read_array,
    refuse_missing,
    submit_array,
    worker_gpus,
)
from results import Store, StoreError
from results.text import counted
from routers.errors import BenchError, RequestError

if TYPE_CHECKING:
    from bench.execute import RunOptions

WORKERS = 4
ASK_AGAIN = 10.0
"""Seconds between two queries of Slurm."""


@dataclass(frozen=True)
class ArrayEnd:
    """The end of an array.

    Attributes:
        left: why something is left to do; None if everything is done.
        failures: the workers' exit statuses other than 0.
    """

    left: str | None = None
    failures: Sequence[int] = ()
    interrupted = False


def asked_array(work: WorkOptions, preset: Preset) -> ClusterConfig | None:
    """Return the cluster settings of the array that the options ask for, or None if they do not.

    Raises:
        typer.BadParameter, RequestError: options contradict each other, or something that an array
            needs is missing.
    """
    if work.executor is None:
        for option, value in (("--workers", work.workers), ("--cluster", work.cluster)):
            if value is not None:
                raise typer.BadParameter(
                    f"{option} is for an array of workers: add --executor slurm or local; for "
                    "worker processes of this command, use --jobs"
                )
        return None
    if in_array():
        return None
    if work.jobs == 0:
        raise typer.BadParameter(
            f"--jobs 0 works in this process, --executor {work.executor} in others: leave one of "
            "them out"
        )
    if work.devices is not None:
        raise typer.BadParameter(
            f"--devices {work.devices} names devices of this machine, but each worker of "
            f"--executor {work.executor} uses the devices that it is given: leave it out"
        )
    refuse_missing(work.executor)
    return cluster_config(preset.cluster, work.cluster)


def work_by_array(
    place: Place,
    study: str,
    store: Store,
    work: WorkOptions,
    cluster: ClusterConfig,
    options: RunOptions,
    prepare: Callable[[int], int],
) -> ArrayEnd:
    """Let an array do what is open of a study, and follow it to its end.

    Args:
        prepare: checks the work for workers of so many GPUs, and writes it down; returns the
            number of open jobs.

    Raises:
        typer.Exit: at Ctrl-C, which the array does not hear.
    """
    array = _array_at_work(place.home, study)
    if array is None:
        assert work.executor is not None
        if not prepare(worker_gpus(work.executor, cluster)):
            return ArrayEnd()
        workers = work.workers or WORKERS
        how = (workers, cluster, place.home, options.command, store.newest())
        array = submit_array(study, work.executor, *how)
        print(f"submitted {counted(workers, 'worker')}; their output is in {array.folder}")
    else:
        print(f"study {study} is already running: {array.name}, with its output in {array.folder}")
    try:
        _follow(array, store)
    except KeyboardInterrupt:
        print(
            f"\nonly the display is closed; the workers go on ({array.name}). The same command "
            f"shows them again, and `python bench.py stop {study}` stops them",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    statuses = array.statuses()
    if not statuses:
        return ArrayEnd(f"no worker finished; their output is in {array.folder}")
    return ArrayEnd(failures=[status for status in statuses if status])


def _array_at_work(home: Path, study: str) -> ArrayRecord | None:
    """Return the array that this same command has at work on a study, or None.

    Raises:
        RequestError: another command's array is at work on it.
    """
    array = read_array(home, study)
    if array is None or not array.states():
        return None
    if array.arguments != tuple(sys.argv[1:]):
        raise RequestError(
            f"another command is already running study {study!r} ({array.name}): "
            f"{array.command}; wait until it has finished, stop it with `python bench.py stop "
            f"{study}`, or choose another --study"
        )
    return array


def _follow(array: ArrayRecord, store: Store) -> None:
    """Show an array's progress until it ends: in place, or in a pipe as a line now and then."""
    console, monitor = Console(highlight=False), Monitor(store, array.study)
    states, asked, shown = Counter({"submitted": len(array.jobs)}), -ASK_AGAIN, 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            if array.executor == "local" or time.monotonic() - asked > ASK_AGAIN:
                with suppress(BenchError):  # Slurm may be restarting
                    states, asked = array.states(), time.monotonic()
            if not states:
                break
            counts = sorted(states.items(), reverse=True)  # such as 3 running, 13 pending
            line = f"{array.name}: {', '.join(f'{number} {state}' for state, number in counts)}"
            with suppress(StoreError):  # the database may be restarting
                standing = monitor.read()
                if console.is_terminal:
                    head = "\n".join((f"Study {array.study}", line, *run_lines(standing)))
                    live.update(Group(Text(head), drawn(standing, console)), refresh=True)
                elif not shown or time.monotonic() - shown > PLAIN_SECONDS:
                    shown = time.monotonic()
                    board = board_of(standing).line(datetime.now())
                    console.print(Text(f"{line}; {board}"), soft_wrap=True)
            time.sleep(SECONDS)
