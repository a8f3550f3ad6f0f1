"""A study from the database: its frames, with each row told as a reader knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd

from report.claims.claims import Claim
from report.conditions import Entry, without_options
from report.state import state_of
from report.study import StudyData
from report.systems import Systems
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
    """A study by name, or the one that was asked for last.

    Raises:
        StoreError: there is no such study, or none at all; the message names the nearest.
    """
    record = store.find_study(name)
    trials = _with_conditions(trials_frame(store, record.name))
    measurements = _with_conditions(measurements_frame(store, record.name))
    # Each once, in their order: of experts that are as usual as others, the first are the usual.
    entries = dict.fromkeys(Entry(row.router, row.condition) for row in trials.itertuples())
    systems = Systems.of(entries)
    return StudyData(
        record=record,
        trials=_told(trials, systems),
        measurements=_told(_of_subject(measurements), systems),
        metrics=_told(_metrics(_with_conditions(metrics_frame(store, record.name))), systems),
        arrays=[_record_told(each, systems) for each in _arrays(arrays_of(store, record.name))],
        components=components_frame(store),
        state=state_of(record.request, trials, measurements),
        usual_experts=systems.usual,
        claims=claims,
    )


def _with_conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with their conditions as mappings, in the place of what readers are shown."""
    made = {text: Condition.of(json.loads(text)) for text in frame["settings"].unique()}
    conditions = [made[text] for text in frame["settings"]]
    return frame.assign(condition=pd.Series(conditions, frame.index, object))


def _told(frame: pd.DataFrame, systems: Systems) -> pd.DataFrame:
    """The rows by system, under the condition that is left."""
    rows = zip(frame["router"], frame["condition"], strict=True)
    told = [systems.told(Entry(*row)) for row in rows]
    routers = pd.Series([entry.router for entry in told], frame.index, object)
    left = pd.Series([entry.condition for entry in told], frame.index, object)
    return frame.assign(router=routers, condition=left)


def _record_told(record: ArrayRecord, systems: Systems) -> ArrayRecord:
    entry = systems.told(Entry(record.router, record.condition))
    return replace(record, router=entry.router, condition=entry.condition)


def _metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """`where` as mappings; of one number measured with several options of a suite, the newest."""
    number = ["suite", "trial", "machine", "metric", "layer", "step", "split", "where"]
    newest = _of_subject(frame.sort_values("measurement", kind="stable"))
    newest = newest.drop_duplicates(number, keep="last")
    return newest.assign(where=[json.loads(text) for text in newest["where"]])


def _arrays(records: list[ArrayRecord]) -> list[ArrayRecord]:
    """The same for arrays."""
    newest: dict[tuple[Any, ...], ArrayRecord] = {}
    for record in records:
        bare = replace(record, condition=without_options(record.condition, record.suite))
        place = (bare.layer, bare.step, bare.split, json.dumps(bare.where, sort_keys=True))
        newest[bare.suite, bare.router, bare.condition, bare.seed, bare.name, *place] = bare
    return list(newest.values())


def _of_subject(frame: pd.DataFrame) -> pd.DataFrame:
    """The condition of the trial or layer alone, without what differs in the suite's options."""
    rows = zip(frame["condition"], frame["suite"], strict=True)
    bare = pd.Series([without_options(*row) for row in rows], frame.index, object)
    return frame.assign(condition=bare)
