"""Weights on disk: safetensors, whole or not at all, known by their hash; nothing is unpickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from routers.errors import BenchError


def save_weights(model: nn.Module, path: Path) -> str:
    """Write a model's parameters and buffers; returns the file's SHA-256 in hexadecimal."""
    return write_tensors(model.state_dict(), path)


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load saved weights into a model of the same shape.

    Raises:
        BenchError: the file is missing, is not the one that was hashed, or is of another model.
    """
    try:
        model.load_state_dict(read_tensors(path, sha256))
    except RuntimeError as error:
        raise BenchError(f"checkpoint {path} does not fit the model: {error}") from None


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> str:
    """Write named tensors in one file, atomically.

    Args:
        metadata: text that goes into the file's header.

    Returns:
        The file's SHA-256 in hexadecimal.
    """
    # Copies, since safetensors refuses tensors that share memory.
    apart = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    # Its `save_file` writes to a file of another name, which a killed process would leave behind.
    content = save(apart, metadata)
    with replacing(path) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read the named tensors of a file, on the CPU.

    Raises:
        BenchError: the file is missing, or its SHA-256 is another.
    """
    if not path.is_file():
        raise BenchError(f"checkpoint {path} is missing; train the trial again")
    digest = file_sha256(path)
    if digest != sha256:
        raise BenchError(
            f"checkpoint {path} is damaged or was replaced: its SHA-256 is {digest}, and it was "
            f"written as {sha256}; delete it and train the trial again"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BenchError(f"checkpoint {path} is not a safetensors file: {error}") from None


def file_sha256(path: Path) -> str:
    """Hash a file's content (SHA-256 in hexadecimal)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block succeeds, that file durably replaces `path`.

    Whoever reads `path` finds the old content or the new one, whenever the machine stops.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may share a home
    try:
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder."""
    for part in folder.glob("*.part"):
        pid = part.name.split(".")[-2]
        if not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
