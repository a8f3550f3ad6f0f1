"""The checkpoint file from which an interrupted training run resumes.

It is a single safetensors file: tensors, with JSON in the metadata. Nothing is unpickled.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bench.config import TrialSpec
from bench.data import Dataset, file_sha256, write_tensors
from bench.train.evaluation import TrainingState

FILE = "resume.safetensors"


class UnusableError(Exception):
    """A saved state from which training cannot resume."""


def save_state(
    folder: Path, training: str, state: TrainingState, tensors: Mapping[str, Tensor]
) -> None:
    """Write the state of a training run and its trainer's tensors, atomically.

    `training` identifies the run, as `training_of` returns it.
    """
    text = {"training": training, "state": state.model_dump_json()}
    metadata = {**text, "sha256": _digest(text, tensors)}
    write_tensors(tensors, folder / FILE, metadata)


def saved_state(folder: Path, training: str) -> tuple[TrainingState, dict[str, Tensor]] | None:
    """Return the saved state of a training run, its tensors on the CPU, or None if there is none.

    Raises:
        UnusableError: the file is damaged or belongs to another run, or a snapshot is damaged.
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
            raise UnusableError("it belongs to another training run")
        try:
            state = TrainingState.model_validate_json(metadata["state"])
        except ValidationError:
            raise UnusableError("another version of the bench saved it") from None
        for snapshot in state.snapshots:
            if file_sha256(folder / snapshot.file) != snapshot.sha256:
                raise UnusableError(f"the snapshot {snapshot.file} is damaged or was replaced")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UnusableError(" ".join(str(error).split())) from None
    return state, tensors


def discard_state(folder: Path) -> None:
    """Delete the saved state, once the training run is over."""
    (folder / FILE).unlink(missing_ok=True)


def training_of(spec: TrialSpec, dataset: Dataset) -> str:
    """Return the identity of a training run, its trial and its data, as JSON.

    If the budget is in seconds, the machine is part of it too.
    """
    identity = {"trial": spec.model_dump(mode="json"), "data": dataset.content_hash}
    if spec.compute.match == "wall_clock":
        identity["machine"] = platform.node()
    return json.dumps(identity, sort_keys=True)


def _digest(text: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of metadata and tensors, since safetensors stores no checksum."""
    digest = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, including the buffers that `state_dict` leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def restore_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `module_state` into a module of the same structure, on its device.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    parameters = dict(module.named_parameters())
    device = next(iter(parameters.values())).device
    if lacking := parameters.keys() - state.keys():
        raise ValueError(f"{min(lacking)} is missing")
    for name, tensor in state.items():
        if name in parameters:
            if parameters[name].shape != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
            parameters[name].copy_(tensor)
            continue
        path, _, leaf = name.rpartition(".")
        try:
            buffers = module.get_submodule(path)._buffers
            buffer = buffers[leaf]
        except (AttributeError, KeyError):
            raise ValueError(f"{name} is unknown") from None
        if buffer is not None and buffer.shape == tensor.shape:
            buffer.copy_(tensor)  # it may be shared
        else:  # it was created, or grew, during training
            buffers[leaf] = tensor.to(device)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Map `NUMBER.NAME` to what the optimiser stores for that parameter."""
    kept = optimizer.state_dict()["state"]
    return {f"{number}.{name}": kept[number][name] for number in kept for name in kept[number]}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimizer_state` into an optimiser for the same parameters."""
    kept: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        number, _, name = key.partition(".")
        kept.setdefault(int(number), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": kept, "param_groups": groups})
