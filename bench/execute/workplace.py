"""What trials and measurements need from their surroundings."""

from __future__ import annotations

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
    """

    store: Store
    home: Path
    datasets: Datasets
    device: torch.device
    machine_id: int
    code_id: int
    tell: Listener

    def folder(self, fingerprint: str) -> Path:
        """Where a trial's files lie."""
        return self.home / "trials" / fingerprint[:16]


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepared_machine() -> Machine:
    """This machine, after this process was set up for it; timings depend on both.

    The allocator keeps what is freed. One thread computes, unless `OMP_NUM_THREADS` says
    otherwise: the bits of a training depend on the number of threads and should not depend on the
    machine's cores, and threads that wait for each other crawl where anything else runs.
    """
    torch.set_num_threads(run_threads())
    allocator = keep_freed_memory()
    found = machine()
    return replace(found, settings={**found.settings, **allocator})
