"""One side of a comparison: a study as it stands, or as it stood under a version of the code.

`STUDY@CODE` names a version of the code, as the column `code` of frames has it: the first twelve
digits of the commit and, where files differed from it, `+` and six digits of the whole state. A
study keeps the results of older code, so that one study has a side before a change and one after.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results import Store, StoreError
from results.frames import measurements_frame, metrics_frame, trials_frame
from results.settings import comparable
from results.text import nearest, to_json

TOP1, FEW_SHOT, TRAINING, FORWARD, LOAD = (
    *("top1", "transfer_top1", "train_seconds"),
    *("forward_ms", "load_cv"),
)
METRICS = (TOP1, FEW_SHOT, TRAINING, FORWARD, LOAD)
"""The metrics that are compared."""
DIGITS = 12
"""Digits of a commit in the name of a version."""


@dataclass(frozen=True, eq=False)
class Side:
    """What counts of a study on one side (columns: see `results.frames`).

    Attributes:
        label: the study, and the version of the code where one was asked for.
        trials: one row a trial.
        metrics: the compared metrics at the end of training, and timings of bare layers.
        descriptions: by the fingerprint of each trial and layer of the study.
    """

    label: str
    study: str
    trials: pd.DataFrame
    metrics: pd.DataFrame
    descriptions: dict[str, dict[str, Any]]

    @property
    def paths(self) -> set[str]:
        """The settings that differ within the study, without the options of suites."""
        own = {path for text in self.trials["settings"].unique() for path in json.loads(text)}
        measured = self.metrics[["suite", "settings"]].drop_duplicates()
        for suite, text in measured.itertuples(index=False):
            own |= {path for path in json.loads(text) if not path.startswith(f"{suite}.")}
        return own


def load_side(store: Store, text: str) -> Side:
    """Read the side that `STUDY` or `STUDY@CODE` names.

    Raises:
        StoreError: there is no such study, or no such version of the code in it, or several; the
            message names those there are.
    """
    name, at, version = text.partition("@")
    study = store.find_study(name).name
    trials = trials_frame(store, study, history=bool(at))
    metrics = metrics_frame(store, study, history=bool(at), names=METRICS)
    descriptions = store.descriptions(study)
    kinds = {each: to_json(comparable(about)) for each, about in descriptions.items()}
    metrics = _final(metrics).assign(kind=metrics["trial"].map(kinds), own=False)
    if not at:
        return Side(study, study, trials, _newest(metrics), descriptions)
    code = _version(study, version, known_versions(store, study))
    trials, metrics = _as_of(code, trials.assign(kind=trials["trial"].map(kinds)), metrics)
    return Side(f"{study}@{code}", study, trials, _newest(metrics), descriptions)


def known_versions(store: Store, study: str) -> list[str]:
    """List the versions of the code that made results of a study, by when each was used first."""
    trials = trials_frame(store, study, history=True)[["code", "started_at"]]
    measured = measurements_frame(store, study, history=True)[["code", "at"]]
    rows = pd.concat([trials.set_axis(measured.columns, axis=1), measured]).dropna()
    return list(rows.sort_values("at", kind="stable")["code"].drop_duplicates())


def _version(study: str, asked: str, known: list[str]) -> str:
    """Return the version whose name begins so; of a commit written out in full as well."""
    commit = asked[:DIGITS] if "+" not in asked else asked
    matching = [each for each in known if each.startswith(commit)] if asked else []
    if commit in matching:
        return commit
    if len(matching) == 1:
        return matching[0]
    made = f"of study {study!r} begins with {asked!r}"
    if matching:
        raise StoreError(f"more than one version of the code {made}: {', '.join(matching)}")
    raise StoreError(f"no version of the code {made}{nearest(asked, known)}")


def _as_of(
    code: str, trials: pd.DataFrame, metrics: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what counted when this code had made its last result.

    That is what the code made, and older results where it made none: those that it would reuse.
    """
    tried = trials.dropna(subset=["attempt"])
    tried = tried.assign(own=tried["code"] == code, done=tried["status"] == "done")
    metrics = metrics.assign(own=metrics["code"] == code)
    own = tried[tried["own"]]
    times = [*own["started_at"], *own["finished_at"].dropna(), *metrics[metrics["own"]]["at"]]
    tried = tried[tried["own"] | (tried["finished_at"] <= max(times))]
    last = tried.sort_values(["own", "attempt"]).drop_duplicates("kind", keep="last")
    tried = tried[tried["trial"].isin(last["trial"])]
    counting = tried.sort_values(["done", "attempt"]).drop_duplicates("trial", keep="last")
    counts = metrics["attempt"].isin(counting["attempt"]) | metrics["attempt"].isna()
    return counting, metrics[counts & (metrics["own"] | (metrics["at"] <= max(times)))]


def _final(metrics: pd.DataFrame) -> pd.DataFrame:
    """Keep what holds for the whole model, or for a bare layer, at the end of training."""
    of_test = metrics["split"].isna() | (metrics["split"] == "test")
    return metrics[metrics["step"].isna() & metrics["layer"].isna() & of_test]


def _newest(metrics: pd.DataFrame) -> pd.DataFrame:
    """Keep one of each number; of several, that of the code that was asked for, or the newest."""
    number = ["kind", "suite", "machine", "metric", "where"]
    ordered = metrics.sort_values(["own", "measurement"], kind="stable")
    return ordered.drop_duplicates(number, keep="last")
