"""Files on disk: published ones, checked by their hash, and weights, written atomically."""

import gzip
import hashlib
import os
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from results.files import file_sha256
from routers.errors import BenchError, RequestError

CONNECT_SECONDS = 20


def check_md5(file: Path, accepted: set[str]) -> None:
    """Raise `RequestError` if a file is missing, or its MD5 is not one of those accepted."""
    if not file.exists():
        raise RequestError(f"{file.name} is missing in {file.parent}, which has the other files")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "md5").hexdigest()
    if digest not in accepted:
        raise RequestError(
            f"{file} is damaged or a different file: its MD5 is {digest}, not "
            f"{' or '.join(sorted(accepted))}; delete it, or put the right one there"
        )


@contextmanager
def downloading(title: str, files: Sequence[str], folder: Path) -> Iterator[None]:
    """Make downloads inside the block time out quickly if there is no network.

    Raises:
        RequestError: anything in the block failed; the message says which files to put where.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    except Exception as error:  # servers, archives and gdown raise all kinds of errors
        reason = " ".join(str(error).split())
        raise RequestError(
            f"{title} is not complete on this machine and cannot be downloaded ({reason}); "
            f"put {', '.join(files)} into {folder}, or set data.data_dir to their folder"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def data_folder(folder: Path | None) -> Path:
    """Return the given folder, or else $BENCH_DATA, or else a folder in the user's cache."""
    if folder is not None:
        return folder
    usual = os.environ.get("BENCH_DATA")
    return expanded(usual) if usual else cache_folder() / "data"


def cache_folder() -> Path:
    """Return the folder for files that can be recreated."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moe-router-bench"


def expanded(path: str) -> Path:
    """Return the path with `~` expanded; `RequestError` if the home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{path}: {error} Write the path in full, or set HOME.") from None


def read_idx(path: Path) -> np.ndarray:
    """Read the uint8 array in a gzipped IDX file; `RequestError` if the file is not intact."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read as a gzipped IDX file: {error}") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise RequestError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(content) - header != np.prod(shape):
        raise RequestError(
            f"{path} holds {len(content) - header} bytes after its header, not those of {shape}"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)


def save_weights(model: nn.Module, path: Path) -> str:
    """Write a model's parameters and buffers; return the file's SHA-256 in hexadecimal."""
    return write_tensors(model.state_dict(), path)


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load saved weights into a model; `BenchError` as in `read_tensors`, or if they do not fit."""
    try:
        model.load_state_dict(read_tensors(path, sha256))
    except RuntimeError as error:
        raise BenchError(f"checkpoint {path} does not fit the model: {error}") from None


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> str:
    """Write named tensors to one file atomically, with metadata in its header.

    Returns:
        The file's SHA-256 in hexadecimal.
    """
    # Copied, since safetensors rejects tensors that share memory.
    apart = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    # Not `save_file`: it writes a temporary file, which a killed process would leave behind.
    content = save(apart, metadata)
    with replacing(path) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a file's tensors onto the CPU; `BenchError` if it is missing or its SHA-256 differs."""
    if not path.is_file():
        raise BenchError(f"checkpoint {path} is missing; train the trial again")
    digest = file_sha256(path)
    if digest != sha256:
        raise BenchError(
            f"checkpoint {path} is damaged or was replaced: its SHA-256 is {digest}, but was "
            f"{sha256} when it was written; delete it and train the trial again"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BenchError(f"checkpoint {path} is not a safetensors file: {error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block succeeds, that file durably replaces `path`.

    Readers of `path` find either the old or the new content, whenever the machine stops.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may share a home folder
    try:
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the partial files of processes that were killed while writing to a folder."""
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
