"""A study from the database: its frames, with each row told as a reader knows it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pandas as pd

from report.claims import Claim
from report.conditions import Entry, System, Systems, experts_label, without_options
from report.state import state_of
from report.study import StudyData
from results import ArrayRecord, Store
from results.conditions import Condition
from results.frames import (
    arrays_of,
    components_frame,
    measurements_frame,
    metrics_frame,
    trials_frame,
)


def load_study(store: Store, name: str | None = None, claims: tuple[Claim, ...] = ()) -> StudyData:
    """Return a study by name, or the one that was asked for last.

    Raises:
        StoreError: there is no such study, or none at all; the message names the nearest.
    """
    record = store.find_study(name)
    trials = _with_conditions(trials_frame(store, record.name))
    measurements = _with_conditions(measurements_frame(store, record.name))
    # Each once, in their order: of experts that are as usual as others, the first are the usual.
    entries = dict.fromkeys(_entries(trials))
    systems = Systems.of(entries)
    return StudyData(
        record=record,
        trials=_by_system(trials, systems),
        measurements=_by_system(_of_subject(measurements), systems),
        metrics=_by_system(_metrics(_with_conditions(metrics_frame(store, record.name))), systems),
        arrays=_arrays(arrays_of(store, record.name), systems),
        components=components_frame(store),
        state=state_of(record.request, trials, measurements),
        usual_experts=experts_label(*systems.usual) if systems.usual else None,
        claims=claims,
    )


def _with_conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their conditions as mappings, in the place of what readers are shown."""
    made = {text: Condition.of(json.loads(text)) for text in frame["settings"].unique()}
    conditions = [made[text] for text in frame["settings"]]
    return frame.assign(condition=pd.Series(conditions, frame.index, object))


def _entries(frame: pd.DataFrame) -> list[Entry]:
    """Return the entry of each row of a frame with conditions."""
    rows = zip(frame["router"], frame["condition"], frame["aa_replicate"], strict=True)
    return [Entry(System(router), *more) for router, *more in rows]


def _by_system(frame: pd.DataFrame, systems: Systems) -> pd.DataFrame:
    """Add the `system` and the `entry` of each row; its `condition` is that of the entry."""
    named = [systems.named(entry) for entry in _entries(frame)]
    made = {
        "system": [entry.system for entry in named],
        "condition": [entry.condition for entry in named],
        "entry": named,
    }
    return frame.assign(**{key: pd.Series(own, frame.index, object) for key, own in made.items()})


def _metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """`where` as mappings; of one number measured with several options of a suite, the newest."""
    number = ["suite", "trial", "machine", "metric", "layer", "step", "split", "where"]
    newest = _of_subject(frame.sort_values("measurement", kind="stable"))
    newest = newest.drop_duplicates(number, keep="last")
    return newest.assign(where=[json.loads(text) for text in newest["where"]])


def _arrays(records: list[ArrayRecord], systems: Systems) -> dict[Entry, list[ArrayRecord]]:
    """Sort the arrays by entry; of one measured with several options of a suite, the newest."""
    newest: dict[Entry, dict[tuple[Any, ...], ArrayRecord]] = defaultdict(dict)
    for record in records:
        bare = without_options(record.condition, record.suite)
        entry = systems.named(Entry(System(record.router), bare, record.aa_replicate))
        place = (record.layer, record.step, record.split, json.dumps(record.where, sort_keys=True))
        newest[entry][record.suite, record.seed, record.name, *place] = record
    return {entry: list(arrays.values()) for entry, arrays in newest.items()}


def _of_subject(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave what differs in the suite's options out of the conditions of trials and layers."""
    rows = zip(frame["condition"], frame["suite"], strict=True)
    bare = pd.Series([without_options(*row) for row in rows], frame.index, object)
    return frame.assign(condition=bare)
