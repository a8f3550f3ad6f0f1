"""Verification of the weights in the home folder against the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.data import file_sha256
from bench.execute.context import trial_folder
from bench.train import read_outcome
from results import Store
from results.verify import Checkpoint, Fault, stored_checkpoints, tried_trials
from routers.errors import BenchError


@dataclass
class StoredWeights:
    """The state of the weights in a home folder.

    Attributes:
        checked: number of files of weights whose content is as it was written.
        absent: number of missing checkpoints of finished attempts, which are no fault.
    """

    checked: int = 0
    absent: int = 0
    faults: list[Fault] = field(default_factory=list)


def verify_weights(store: Store, home: Path) -> StoredWeights:
    """Hash all weights in a home folder and compare them with the database; change nothing."""
    result = StoredWeights()
    checkpoints = stored_checkpoints(store)
    for checkpoint in checkpoints:
        _verify(home, checkpoint, result)
    own = {(home / checkpoint.path).parent for checkpoint in checkpoints}
    own |= {trial_folder(home, name) for name in tried_trials(store)}
    folder = trial_folder(home, "any").parent
    for other in sorted(set(folder.iterdir()) - own) if folder.is_dir() else ():
        why = "no attempt in this database has trained it"
        result.faults.append(Fault("orphan", other.relative_to(home).as_posix(), why))
    return result


def _verify(home: Path, checkpoint: Checkpoint, result: StoredWeights) -> None:
    """Compare the weights of an attempt, and its snapshots, with their hashes."""

    def fault(damaged: Path, why: str) -> None:
        what = f"{damaged.relative_to(home).as_posix()}, of trial {checkpoint.trial[:10]}"
        result.faults.append(Fault("checkpoint", what, why))

    file = home / checkpoint.path
    if not file.is_file():
        result.absent += 1
        return
    hashes = {file: checkpoint.sha256}
    try:
        for saved in read_outcome(file.parent).snapshots:
            hashes.setdefault(file.parent / saved.file, saved.sha256)
    except BenchError as error:
        fault(file, str(error))
    for each, expected in hashes.items():
        if not each.is_file():
            continue  # a snapshot is trained again if a suite needs it
        digest = file_sha256(each)
        result.checked += digest == expected
        if digest != expected:
            fault(each, f"its SHA-256 is {digest[:12]}…, and {str(expected)[:12]}… was written")
