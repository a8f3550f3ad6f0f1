"""Stored studies as pandas frames, for notebooks and scripts of one's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from results.store.store import open_store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class StudyFrames:
    """A study's rows, as they stood when it was loaded.

    Attributes:
        name: the study's name.
        trials: one row a trial, with its status, cost, log and environment.
        measurements: one row a measurement, with failed and skipped ones.
        metrics: one row a number, with its router, condition, seed, suite, layer, step and split.
    """

    name: str
    trials: pd.DataFrame
    measurements: pd.DataFrame
    metrics: pd.DataFrame


def load_study(
    name: str, home: str | Path | None = None, db: str | Path | None = None
) -> StudyFrames:
    """Read a study from the database, which is opened for reading alone and closed again.

    The frames hold the results that a report shows; `results.frames` reads older ones too.

    Args:
        name: the study's name, as `python bench.py db info` lists it.
        home: folder with the database `bench.db`; None for the folder that BENCH_HOME names, or
            else `runs` in the current folder.
        db: a SQLite file or any SQLAlchemy URL, instead of the one in the home folder.

    Raises:
        StoreError: there is no such database or study; the message names the nearest.
    """
    from results.frames import measurements_frame, metrics_frame, trials_frame

    with open_store(_database(home, db), create=False, read_only=True) as store:
        return StudyFrames(
            name=name,
            trials=trials_frame(store, name),
            measurements=measurements_frame(store, name),
            metrics=metrics_frame(store, name),
        )


def _database(home: str | Path | None, db: str | Path | None) -> str:
    """Return the path or URL of the database, where the commands of the bench look for it."""
    if db is not None:
        return str(db) if "://" in str(db) else str(Path(db).expanduser())
    folder = Path(home or os.environ.get("BENCH_HOME") or "runs")
    return str(folder.expanduser() / "bench.db")
