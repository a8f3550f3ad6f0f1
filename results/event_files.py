"""Curves as TensorBoard event files: one run per trial, one scalar per metric and layer."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from results.conditions import router_label
from results.frames import metrics_frame, trials_frame
from results.store.store import Store
from results.text import StoreError

PATTERN = "events.out.tfevents.*"
NO_PLACE = ("flops", "seconds", "constant")
"""Keys that distinguish no two values of a metric; a point's tag is made of all the others."""


def write_event_files(store: Store, folder: Path, study: str | None = None) -> int:
    """Write what was measured at each training step, with one folder per trial.

    A trial's folder is `STUDY/ROUTER/CONDITION/seed-N`; older event files in it are replaced.

    Args:
        study: name of a study; None for all.

    Returns:
        The number of trials with at least one such metric.

    Raises:
        StoreError: the study or the package tensorboard is missing, or a folder is not writable.
    """
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError as error:
        raise StoreError(
            "event files are written by the package tensorboard, which is not installed: "
            "`pip install tensorboard`"
        ) from error
    metrics = metrics_frame(store, study)
    metrics = metrics[metrics["step"].notna() & metrics["seed"].notna()].dropna(subset=["study"])
    began = trials_frame(store, study).drop_duplicates("trial").set_index("trial")["started_at"]
    runs = metrics.groupby(["study", "trial"], sort=False)
    for (_, trial), points in runs:
        run = folder / _run_of(points.iloc[0])
        try:
            for older in run.glob(PATTERN):
                older.unlink()
            writer = EventFileWriter(str(run))
        except OSError as error:
            raise StoreError(f"cannot write event files into {run}: {error}") from error
        for point in points.sort_values("step", kind="stable").itertuples():
            writer.add_event(_event(point, began[trial].timestamp()))
        writer.close()
    return len(runs)


def _run_of(row: pd.Series) -> Path:
    """Return the folder of a trial, named with letters, digits, `=`, `.`, `-` and `_`."""
    label = router_label(row["router"], row["aa_replicate"])
    settings = json.loads(row["settings"])
    own = {path: text for path, text in settings.items() if not path.startswith(f"{row['suite']}.")}
    condition = " ".join(f"{path}={value}" for path, value in own.items())
    parts = (row["study"], label, condition, f"seed-{row['seed']}")
    return Path(*(re.sub(r"[^\w.=-]+", "-", part)[:200].strip("-") for part in parts if part))


def _event(point: Any, began: float) -> Any:
    """Make the event of one value, tagged `SUITE/METRIC` with its split, layer and other keys."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    where = json.loads(point.where)
    seconds = where.get("seconds", 0.0)
    place = [point.split, "" if pd.isna(point.layer) else f"layer {point.layer}"]
    place += [f"{key} {value}" for key, value in where.items() if key not in NO_PLACE]
    tag = "/".join(filter(None, (point.suite, point.metric, *place)))
    value = Summary.Value(tag=tag, simple_value=point.value)
    return Event(wall_time=began + seconds, step=point.step, summary=Summary(value=[value]))
