"""One side of a comparison: a study as it is now, or as it was before code changed.

A study keeps the results of older code, so one study has a side before a change and one after it.
`STUDY@CODE` names a version of the code as in the column `code` of frames: the first twelve digits
of the commit and, if files differed from it, `+` and six digits of a hash of the whole state.
`STUDY@TIME` is the study as it was at a local time, such as 2026-05-04T18:00; it serves changes of
a plugin, which has no commit here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from results import Store, StoreError
from results.frames import measurements_frame, metrics_frame, trials_frame
from results.settings import comparable
from results.text import nearest, to_json

TOP1, FEW_SHOT, TRAINING, LOAD = "top1", "transfer_top1", "train_seconds", "load_cv"
FORWARD, WAS_DISTURBED = "forward_ms", "disturbed"
METRICS = (TOP1, FEW_SHOT, TRAINING, LOAD, FORWARD, WAS_DISTURBED)
"""The compared metrics, and the one that tells whether other processes disturbed a timing."""
DIGITS = 12
"""The number of digits of a commit in the name of a version."""


@dataclass(frozen=True, eq=False)
class Side:
    """The results of a study that count on one side (for the columns, see `results.frames`).

    Attributes:
        label: the study, and the version of the code or the time if one was given.
        trials: one row per trial.
        metrics: the compared metrics at the end of training, and timings of bare layers.
        descriptions: those of the study's trials and layers, by fingerprint.
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
    """Return the side that `STUDY`, `STUDY@CODE` or `STUDY@TIME` names.

    Raises:
        StoreError: there is no such study, or no or several such versions of its code; the message
            names the known versions.
    """
    name, at, version = text.partition("@")
    study = store.find_study(name).name
    trials = trials_frame(store, study, history=bool(at))
    metrics = metrics_frame(store, study, history=bool(at), names=METRICS)
    descriptions = store.descriptions(study)
    kinds = {each: to_json(comparable(about)) for each, about in descriptions.items()}
    of_test = metrics["split"].isna() | (metrics["split"] == "test")
    metrics = metrics[metrics["step"].isna() & metrics["layer"].isna() & of_test]
    metrics = metrics.assign(kind=metrics["trial"].map(kinds), own=False)
    if not at:
        return Side(study, study, trials, _newest(metrics), descriptions)
    trials, known = trials.assign(kind=trials["trial"].map(kinds)), known_versions(store, study)
    if (moment := _moment(version)) is not None:
        label, until, code = f"{study}@{moment:%Y-%m-%dT%H:%M:%S}", moment, ""
    else:
        code = _version(study, version, list(known))
        own = [*trials[trials["code"] == code][["started_at", "finished_at"]].stack().dropna()]
        own += [*metrics[metrics["code"] == code]["at"], known[code]]
        label, until = f"{study}@{code}", max(own)
    trials, metrics = _as_of(until, trials, metrics, code)
    if not code and trials.empty and metrics.empty:
        raise StoreError(f"there is no {label}: study {study!r} was made by {known_text(known)}")
    return Side(label, study, trials, _newest(metrics), descriptions)


def _moment(text: str) -> datetime | None:
    """Return the time that a text names, by this machine's clock, or None if it names none."""
    if "-" not in text:  # a commit of only digits is not a year
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def known_versions(store: Store, study: str) -> dict[str, datetime]:
    """Return when each version of the code that made a study's results was first used."""
    trials = trials_frame(store, study, history=True)[["code", "started_at"]]
    measured = measurements_frame(store, study, history=True)[["code", "at"]]
    rows = pd.concat([trials.set_axis(measured.columns, axis=1), measured]).dropna()
    first = rows.sort_values("at", kind="stable").drop_duplicates("code")
    return {row.code: row.at.to_pydatetime() for row in first.itertuples()}


def known_text(known: Mapping[str, datetime]) -> str:
    """List versions of the code, each with the local time of its first use."""
    times = {code: f"{at.astimezone():%Y-%m-%dT%H:%M}" for code, at in known.items()}
    return ", ".join(f"{code} (from {time})" for code, time in times.items()) or "no code yet"


def _version(study: str, asked: str, known: list[str]) -> str:
    """Return the version whose name begins as asked; a full commit hash works too."""
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
    until: datetime, trials: pd.DataFrame, metrics: pd.DataFrame, code: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what counted at a time: the newest attempt of each trial, and the numbers so far.

    Args:
        code: the version whose results take precedence over all others.
    """
    tried = trials.dropna(subset=["attempt"])
    tried = tried.assign(own=tried["code"] == code, done=tried["status"] == "done")
    metrics = metrics.assign(own=metrics["code"] == code)
    tried = tried[tried["own"] | (tried["finished_at"] <= until)]
    last = tried.sort_values(["own", "started_at", "attempt"]).drop_duplicates("kind", keep="last")
    tried = tried[tried["trial"].isin(last["trial"])]
    counting = tried.sort_values(["done", "started_at", "attempt"])
    counting = counting.drop_duplicates("trial", keep="last")
    counts = metrics["attempt"].isin(counting["attempt"]) | metrics["attempt"].isna()
    return counting, metrics[counts & (metrics["own"] | (metrics["at"] <= until))]


def _newest(metrics: pd.DataFrame) -> pd.DataFrame:
    """Keep one row per number: that of the requested code if there is one, else the newest."""
    number = ["kind", "suite", "machine", "metric", "where"]
    ordered = metrics.sort_values(["own", "at", "measurement"])
    return ordered.drop_duplicates(number, keep="last")
