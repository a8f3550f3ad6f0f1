"""What jobs need from their run, and processes that are set up to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.allocator import keep_freed_memory
from bench.datasets import Datasets
from bench.environment import machine, run_threads
from bench.execute.events import OnEvent
from results import Machine, Store


@dataclass(frozen=True)
class RunContext:
    """What all jobs of a run share, as plain data.

    Attributes:
        database: URL, with its password.
        home: folder of everything that runs make.
        plugins: the user's files to load, and the hash of their source when the run began.
        machine_id: row of this machine.
        code_id: row of the code that runs.
        save_every: seconds between two checkpoints of a training.
    """

    database: str
    home: Path
    plugins: Mapping[Path, str]
    machine_id: int
    code_id: int
    save_every: float


@dataclass(frozen=True)
class JobContext:
    """What one job needs in the process that does it.

    Attributes:
        device: where trials train and suites measure.
        emit: called with each event.
        stop: whether a training is to save what it has, and to end.
    """

    run: RunContext
    store: Store
    datasets: Datasets
    device: torch.device
    emit: OnEvent
    stop: Callable[[], bool]

    def folder(self, fingerprint: str) -> Path:
        """Where a trial's files lie."""
        return trial_folder(self.run.home, fingerprint)


def trial_folder(home: Path, fingerprint: str) -> Path:
    """Where a trial's files lie in the folder of everything that runs make."""
    return home / "trials" / fingerprint[:16]


def prepare_process() -> dict[str, str]:
    """Set this process up to compute; returns the allocator's settings.

    The allocator keeps what is freed. One thread computes, unless `OMP_NUM_THREADS` says
    otherwise: the bits of a training depend on the number of threads and should not depend on the
    machine's cores, and threads that wait for each other crawl where anything else runs.
    """
    torch.set_num_threads(run_threads())
    return keep_freed_memory()


def prepared_machine() -> Machine:
    """This machine, after this process was set up for it; timings depend on both."""
    allocator = prepare_process()
    found = machine()
    return replace(found, settings={**found.settings, **allocator})
