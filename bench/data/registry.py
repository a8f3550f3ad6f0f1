"""Data sets by name: each is one function, of this folder, of a user's file or of a package.

    @register_dataset("shapes", family="mine", source="where it was published")
    def shapes(folder: Path | None) -> RawData:
        \"\"\"A thousand drawings of circles and squares.\"\"\"
        images, labels = draw()  # uint8 (n, height, width) or (n, height, width, 3); int (n,)
        return RawData.from_arrays(images, labels, ("circle", "square"))

The function is given the folder that `data.data_dir` names, or None. One whose name has a colon, as
`imagefolder:PATH`, takes what a request puts there as its second argument. Fingerprints hold the
content of what it returns, not its source.
"""

from __future__ import annotations

import inspect
import traceback
from typing import Any

from bench.config import DataConfig
from bench.data.dataset import Dataset
from bench.data.files import expanded
from bench.data.raw import RawData, refuse_invalid
from bench.data.splits import assemble
from routers.errors import BenchError, RequestError
from routers.registry import Entry, Registry

DATASETS = Registry("dataset")
register_dataset = DATASETS.register


def find_dataset(name: str) -> tuple[Entry, tuple[str, ...]]:
    """Return the data set of a name, and the arguments that the name brings.

    Args:
        name: as `digits`, or as `imagefolder:/my/images`, which brings one argument.

    Raises:
        RequestError: there is no such data set.
    """
    prefix, colon, argument = name.partition(":")
    for entry in DATASETS.entries():
        own, takes, _ = entry.name.partition(":")
        if colon and takes and own == prefix:
            return entry, (argument,)
    return DATASETS.get(name), ()


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
