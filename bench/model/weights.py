"""Pretrained weights of a timm model from a file of the user's."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from bench.data import file_sha256
from routers import RequestError


def pretrained_hash(file: str) -> str:
    """Hash the file (SHA-256, hex).

    Raises:
        RequestError: there is no such file.
    """
    return file_sha256(_existing(file))


def read_pretrained(file: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, safetensors or torch's own, which is read as data alone.

    Raises:
        RequestError: there is no such file, or it is no checkpoint.
    """
    from timm.models import load_state_dict

    path = _existing(file)
    try:
        tensors: dict[str, Tensor] = load_state_dict(str(path), device="cpu")
    except Exception as error:  # torch's reader lets through whatever its parser meets
        raise RequestError(f"model.weights = {file!r} is no checkpoint: {error!r}") from error
    return tensors


def require_all(model: nn.Module, tensors: dict[str, Tensor], file: str) -> None:
    """Refuse weights that lack parameters of the model; timm passes over some in silence.

    The last layer may be missing: its classes are often others.

    Raises:
        RequestError: naming the first parameter that they lack.
    """
    last = getattr(model, "get_classifier", nn.Identity)()
    spared = {id(parameter) for parameter in last.parameters()}
    wanted = [name for name, parameter in model.named_parameters() if id(parameter) not in spared]
    lacking = [name for name in wanted if name not in tensors]
    if lacking:
        raise RequestError(
            f"model.weights = {file!r} lacks {len(lacking)} of the {len(wanted)} parameters of "
            f"{type(model).__name__}, the first is {lacking[0]!r}: it is of another model"
        )


def _existing(file: str) -> Path:
    if not Path(file).is_file():
        raise RequestError(f"model.weights = {file!r}: there is no such file")
    return Path(file)
