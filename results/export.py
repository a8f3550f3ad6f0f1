"""The database as one tidy table, for whatever comes after it: one row a metric."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from results.errors import StoreError
from results.frames import metrics_frame
from results.store import Store

WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda frame, file: frame.to_csv(file, index=False),
    ".parquet": lambda frame, file: frame.to_parquet(file, engine="pyarrow", index=False),
}


def export(store: Store, path: str | Path, study: str | None = None) -> Path:
    """Write all metrics to a file, those of older code too (`current` tells them apart).

    Args:
        path: its ending says the format: `.csv` or `.parquet`.
        study: None for all studies.

    Raises:
        StoreError: another ending, no such study, or a place that cannot be written.
    """
    file = Path(path)
    if file.suffix not in WRITERS:
        raise StoreError(f"cannot export to {file.name!r}: the name ends in {' or '.join(WRITERS)}")
    frame = metrics_frame(store, study, history=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            WRITERS[file.suffix](frame, unfinished)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error}") from error
    return file
