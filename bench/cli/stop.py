"""`stop`: stop the array of a study, and its runs on this machine, with all trainings saved."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.context import Place

if TYPE_CHECKING:
    from results.store.records import RunRecord

PATIENCE = 120
"""Seconds within which work that was asked to stop normally does so."""


def stop(place: Place, study: Annotated[str, typer.Argument(metavar="STUDY")]) -> None:
    """Stop all work on a study: its array of workers, and its runs on this machine.

    Each saves the state of its trainings first; the command that started it resumes it.

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
            print(f"nothing is running for study {study}")
            return
        resume = [run.command for run in here]
        if array is not None and at_work:
            array.stop()
            resume.append(array.command)
            print(f"{array.name}: asked {counted(at_work.total(), 'worker')} to save and stop")
        asked = [run for run in here if _asked(run)]
        for run in asked:
            print(f"process {run.pid} on {run.node}: asked to save and stop")

        def ended() -> bool:
            over = array is None or not array.states()
            return over and not any(map(alive, (r for r in store.runs(study) if r.id in mine)))

        mine = {run.id for run in asked}
        end = time.monotonic() + PATIENCE
        while not ended() and time.monotonic() < end:
            time.sleep(1)
        late = not ended()
        if late:
            print(
                f"some work has not stopped after {PATIENCE} s; `python bench.py status --study "
                f"{study}` shows what is still running"
            )
        elsewhere = [r for r in store.runs(study) if alive(r) and r.host != this_host()]
        for run in () if at_work else elsewhere:  # an array's workers were asked, wherever they are
            print(f"process {run.pid} on {run.node} is still running: run this command there")
    if late:
        raise typer.Exit(1)
    for line in dict.fromkeys(resume):
        print(f"resume with: {line}")


def _asked(run: RunRecord) -> bool:
    """Ask a run on this machine to save and stop; return whether it was asked here.

    A worker of an array is not: its array was asked.

    Raises:
        BenchError: it belongs to another user.
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
        raise BenchError(f"process {run.pid} belongs to another user") from error
    return True
