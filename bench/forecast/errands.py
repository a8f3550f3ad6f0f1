"""Errands in worker processes, as many at once as a run would have: they slow each other down."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from bench.data.handed import HandedDataset
from bench.datasets import Datasets
from bench.execute.fork_server import forked
from bench.execute.locks import training
from bench.execute.plugins import hashes_of
from bench.execute.process import begin_process
from bench.execute.training import describe
from bench.forecast.cost import Cost, Errand, cost_of
from routers.errors import BenchError

LIMIT = 60.0
"""Seconds of an errand, at most."""

Results = Generator[tuple[str, Cost | str]]
"""The name of each errand when it is done, with its cost or why it has none.

`BenchError` is raised where one takes too long; the others are given up then.
"""
Run = Callable[[Mapping[str, Errand]], Results]
"""Runs errands."""


@dataclass(frozen=True)
class Place:
    """What workers need, the same for all.

    Attributes:
        plugins: as `load_unchanged` takes them.
        datasets: all that errands need.
        log: the file where what workers print goes.
    """

    plugins: Mapping[Path, str]
    datasets: Mapping[str, HandedDataset]
    log: Path


@contextmanager
def workers(slots: Sequence[str], datasets: Datasets, plugins: Iterable[Path]) -> Iterator[Run]:
    """To run errands in processes, one at a time in each slot.

    Args:
        slots: the device of each worker.
        datasets: have loaded what errands need.
        plugins: the user's files that were loaded.
    """
    with TemporaryDirectory() as folder:
        handed = datasets.hand(Path(folder))
        place = Place(hashes_of(plugins), handed, Path(folder) / "log")
        yield partial(_run, slots=slots, place=place)


def here(datasets: Datasets, device: torch.device) -> Run:
    """To run errands in this process, one after the other."""

    def run(errands: Mapping[str, Errand]) -> Results:
        for name, errand in errands.items():
            yield name, _told(partial(cost_of, errand, datasets, device))

    return run


def loading() -> float:
    """Seconds until the first process of the fork server is there: it loads everything first."""
    began = perf_counter()
    forked(os.getpid, timeout=None)().result()
    return perf_counter() - began


def _run(errands: Mapping[str, Errand], slots: Sequence[str], place: Place) -> Results:
    begin = forked(_work, LIMIT)
    waiting, free = list(errands), list(slots)
    running: dict[Future[Cost], tuple[str, str]] = {}
    try:
        while waiting or running:
            while waiting and free:
                name, device = waiting.pop(0), free.pop(0)
                running[begin(errands[name], device, place)] = name, device
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, device = running.pop(future)
                free.append(device)
                yield name, _told(future.result)
    finally:
        for future in running:
            future.cancel()  # which ends its process


def _told(cost: Callable[[], Cost]) -> Cost | str:
    try:
        return cost()
    except TimeoutError:
        raise BenchError(f"a few steps of a training take more than {LIMIT:g} s here") from None
    except (Exception, SystemExit) as error:
        return describe(error)


def _work(errand: Errand, device: str, place: Place) -> Cost:
    began = perf_counter()
    own = begin_process(place.log, device, place.plugins)
    datasets = Datasets(place.datasets)
    datasets.get(errand.spec.data)
    ready = perf_counter() - began
    with training(own, lambda _: None, lambda: False):
        return replace(cost_of(errand, datasets, own), ready=ready)
