"""The file that an interrupted training goes on from.

It is one safetensors file: tensors, and JSON in its metadata. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.checkpoint import file_sha256, write_tensors
from bench.config import TrialSpec
from bench.data import Dataset
from bench.journal import Journal

FILE = "resume.safetensors"


class UnusableError(Exception):
    """A training cannot go on from what was saved."""


def save(folder: Path, training: str, journal: Journal, tensors: Mapping[str, Tensor]) -> None:
    """Write the file, atomically.

    Args:
        folder: the trial's.
        training: see `training_of`.
        journal: of the training until now.
        tensors: of the trainer.
    """
    text = {"training": training, "journal": journal.model_dump_json()}
    metadata = {**text, "sha256": _digest(text, tensors)}
    write_tensors(tensors, folder / FILE, metadata)


def saved(folder: Path, training: str) -> tuple[Journal, dict[str, Tensor]] | None:
    """What was saved of a training, its tensors on the CPU; None where nothing was.

    Raises:
        UnusableError: it is damaged or of another training, or a snapshot of it is.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        digest = metadata.pop("sha256", None)
        if digest != _digest(metadata, tensors):
            raise UnusableError("its content is not what was written")
        if metadata["training"] != training:
            raise UnusableError("it is of another training")
        journal = Journal.model_validate(json.loads(metadata["journal"]))
        for snapshot in journal.snapshots:
            if file_sha256(folder / snapshot.file) != snapshot.sha256:
                raise UnusableError(f"the snapshot {snapshot.file} is damaged or was replaced")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UnusableError(" ".join(str(error).split())) from None
    return journal, tensors


def discard(folder: Path) -> None:
    """The training is over: nothing goes on from it."""
    (folder / FILE).unlink(missing_ok=True)


def training_of(spec: TrialSpec, dataset: Dataset) -> str:
    """What tells one training from another: the trial and its data, as JSON.

    And where it is given seconds, the machine whose seconds they are.
    """
    told = {"trial": spec.model_dump(mode="json"), "data": dataset.content_hash}
    if spec.compute.match == "wall_clock":
        told["machine"] = platform.node()
    return json.dumps(told, sort_keys=True)


def _digest(text: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal; safetensors keeps none."""
    found = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
