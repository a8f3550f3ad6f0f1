"""`stop`: end the array of a study, and its runs on this machine, with all training saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place, command

if TYPE_CHECKING:
    from results.store.records import RunRecord

PATIENCE = 120
"""Seconds in which what was asked to end does so, if all is well."""


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    command(app)(stop)


def stop(place: Place, study: Annotated[str, typer.Argument(metavar="STUDY")]) -> None:
    """End all work on a study: the array of `--executor`, and runs on this machine.

    Each saves what it trains; the command that began it continues.

    \b
    Example:
      python bench.py stop tiny
    """
    from bench.execute import read_array
    from results.store.leases import alive, this_host
    from results.text import counted

    with place.store() as store:
        study = store.find_study(study).name
        living = [run for run in store.runs(study) if alive(run)]
        here = [run for run in living if run.host == this_host()]
        array = read_array(place.home, study)
        at_work = array is not None and array.states()
        if not living and not at_work:
            print(f"nobody works on study {study}")
            return
        resume = [run.command for run in here]
        if array is not None and at_work:
            array.stop()
            resume.append(array.command)
            print(f"{array.name}: {counted(at_work.total(), 'worker')} asked to save and end")
        asked = [run for run in here if _asked(run)]
        for run in asked:
            print(f"process {run.pid} on {run.node}: asked to save and end")

        def ended() -> bool:
            over = array is None or not array.states()
            return over and not any(map(alive, (r for r in store.runs(study) if r.id in mine)))

        mine = {run.id for run in asked}
        _await(ended)
        if not ended():
            print(f"not over after {PATIENCE} s: `python bench.py status` shows what goes on")
        elsewhere = [r for r in store.runs(study) if alive(r) and r.host != this_host()]
        for run in elsewhere if array is None else ():
            print(f"process {run.pid} on {run.node} goes on: give this command there")
    for line in dict.fromkeys(resume):
        print(f"resume with: {line}")


def _asked(run: RunRecord) -> bool:
    """Ask a run on this machine to save and end; False for a worker of an array, which was asked.

    Raises:
        BenchError: it belongs to somebody else.
    """
    import psutil

    from bench.execute import IN_ARRAY
    from routers.errors import BenchError

    try:
        if IN_ARRAY in psutil.Process(run.pid).environ():
            return False
        os.kill(run.pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    except (psutil.AccessDenied, PermissionError) as error:
        raise BenchError(f"process {run.pid} belongs to somebody else") from error
    return True


def _await(ended: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not ended() and time.monotonic() < end:
        time.sleep(1)
