"""When a plan would be done: measured, or why that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import torch

from bench.cli.words import clock, duration, first_line, size
from bench.datasets import Datasets
from bench.execute.devices import CPU, own_device
from bench.execute.jobs import Job
from bench.execute.workplace import prepare_process
from bench.forecast import Forecast, forecast, here, loading, workers
from results.text import counted
from routers.errors import BenchError


def finishing(
    jobs: Sequence[Job],
    memory: int,
    places: Sequence[str],
    in_workers: bool,
    datasets: Datasets,
    plugins: Sequence[Path],
    tell: Callable[[str], None],
) -> Forecast | str:
    """When the jobs of a plan are done, or why nobody can say.

    Args:
        memory: bytes that the largest training needs.
        places: the device of each worker.
        in_workers: whether to measure in worker processes, else in this one.
        datasets: have loaded what the jobs need.
        plugins: the user's files that were loaded.
        tell: is told what goes on.
    """
    if all(job.idle for job in jobs):
        return "nothing is left to do"
    free = _free_memory(places)
    if memory > free:
        return f"not known: a training needs {size(memory)} of memory, here are {size(free)} for it"
    try:
        if not in_workers:
            prepare_process()
            run = here(datasets, own_device(places[0]))
            return forecast(jobs, places, run, 0.0, tell)
        tell("loading workers")
        seconds = loading()
        with workers(places, datasets, plugins) as run:
            return forecast(jobs, places, run, seconds, tell)
    except BenchError as error:
        return f"not known: {error}"


def _free_memory(places: Sequence[str]) -> int:
    """Bytes for each worker."""
    if CPU in places:
        return psutil.virtual_memory().available // len(places)
    smallest = min(
        torch.cuda.get_device_properties(number).total_memory
        for number in range(torch.cuda.device_count())
    )
    return smallest * len(set(places)) // len(places)


def print_finishing(ends: Forecast | str, workers: int) -> None:
    """Print when all is done if it is begun now, and what that is made of."""
    if isinstance(ends, str):
        print(f"finishing time: {ends}")
        return
    now = datetime.now()
    print(
        f"finishing time: about {duration(ends.whole)} with {counted(workers, 'worker')} "
        f"({clock(now + timedelta(seconds=ends.whole), now)}), of which\n"
        f"training {duration(ends.training)}, measuring {duration(ends.measuring)}, "
        f"timings {duration(ends.timings)}, start and report {duration(ends.around)}"
    )
    for label, why in ends.unknown.items():
        print(f"without {label}: {first_line(why)}")
