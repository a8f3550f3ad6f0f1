"""What trials and measurements need from their surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.allocator import keep_freed_memory
from bench.datasets import Datasets
from bench.environment import machine, run_threads
from bench.execute.events import Listener
from results import Machine, Store


@dataclass(frozen=True)
class Workplace:
    """Where trials run, and where their results go.

    Attributes:
        home: folder of everything that runs make.
        device: where trials train and suites measure.
        machine_id: row of this machine.
        code_id: row of the code that runs.
        tell: is told each event.
        save_every: seconds between two checkpoints of a training.
        stop: whether a training is to save what it has, and to leave.
    """

    store: Store
    home: Path
    datasets: Datasets
    device: torch.device
    machine_id: int
    code_id: int
    tell: Listener
    save_every: float
    stop: Callable[[], bool]

    def folder(self, fingerprint: str) -> Path:
        """Where a trial's files lie."""
        return trial_folder(self.home, fingerprint)


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
