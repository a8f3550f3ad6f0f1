"""Data sets by name."""

from __future__ import annotations

import inspect
import traceback
from typing import Any

from bench.config import DataConfig
from bench.data import (  # noqa: F401 - importing a source registers it
    celeba,
    digits,
    embedded,
    fashion_marked,
    imagefolder,
    timm_sets,
    torchvision_sets,
)
from bench.data.assemble import assemble
from bench.data.dataset import Dataset
from bench.data.folders import expanded
from bench.data.raw import RawData
from bench.data.registry import find_dataset
from bench.data.validation import refuse_invalid
from routers.errors import BenchError, RequestError

NOT_SQUARE = {"celeba"}


def load_dataset(request: DataConfig) -> Dataset:
    """Load the data set of this name, its images of the size and channels that were asked for.

    Raises:
        RequestError: there is no such data set, its files are missing or not as they should be, or
            cannot be downloaded, or a user's function fails or returns what is no data set.
    """
    raw = refuse_invalid(request.name, read_source(request.name, request.data_dir))
    return assemble(request.name, raw, request.image_size, request.channels)


def read_source(name: str, data_dir: str | None = None) -> RawData:
    """Return what the function of a data set returns, as yet unchecked.

    Raises:
        RequestError: there is no such data set, its files cannot be read, or a user's function
            fails.
    """
    entry, arguments = find_dataset(name)
    folder = expanded(data_dir) if data_dir else None
    raw: RawData
    if entry.target.__module__.startswith("bench.data."):
        raw = entry.target(folder, *arguments)
        return raw
    try:
        raw = entry.target(folder, *arguments)
    except Exception as error:  # whatever a user's code raises
        kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
        where = _raised_at(error, entry.target)
        raise RequestError(f"data set {name!r} cannot be read: {where}{kind}{error}") from error
    return raw


def has_size(name: str) -> bool:
    """Tell whether all images of a data set are expected to be squares of one size."""
    return name not in NOT_SQUARE and ":" not in find_dataset(name)[0].name


def _raised_at(error: Exception, target: Any) -> str:
    """Return the line of the function's own file that an error passed through last."""
    file = inspect.getsourcefile(target)
    own = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    return f"{file}:{own[-1].lineno}: {own[-1].line} — " if own else ""
