"""What a worker is told: its one job, and the surroundings that all jobs of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.data.handed import HandedDataset
from bench.execute.jobs import Job


@dataclass(frozen=True)
class Surroundings:
    """Plain data, the same for every worker of a run.

    Attributes:
        database: URL, with its password.
        home: folder of everything that runs make.
        plugins: the user's files to load, and the hash of their source when the run began.
        machine_id: row of this machine.
        code_id: row of the code that runs.
        datasets: those of the run.
        save_every: seconds between two checkpoints of a training.
    """

    database: str
    home: Path
    plugins: Mapping[Path, str]
    machine_id: int
    code_id: int
    datasets: Mapping[str, HandedDataset]
    save_every: float


@dataclass(frozen=True)
class Assignment:
    """One job for one worker.

    Attributes:
        row: of the trial or layer.
        attempt: row of the attempt that has begun; None where nothing is to be trained.
        device: where it works, see `devices`.
        log: file of the attempt's or measurement's output.
    """

    job: Job
    row: int
    attempt: int | None
    device: str
    log: Path


@dataclass(frozen=True)
class Result:
    """How a worker left its job.

    Attributes:
        status: of the training; None where there was none.
        leave: why the whole run is to end, where it is.
    """

    status: str | None = None
    leave: str | None = None
