"""Every trial and bare layer, and the trials and measurements that failed."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from report.conditions import Entry
from report.marks import older_trials_sentence
from report.study import StudyData
from report.table import OLDER, Cell, Column, Lacking, Row, summary, text_columns, words
from report.topics.make import Contents, as_table

NOT_DONE = {
    "waiting": "not run yet",
    "running": "worked on when this report was made",
    "interrupted": "stopped from outside; the next run resumes it",
}
"""The statuses of trials that have not ended, in words."""


@dataclass(frozen=True)
class Incomplete:
    """A trial or a measurement without a result; a text that does not exist is "".

    Attributes:
        what: `training`, or the suite.
        status: how it ended, in words; `not done` if it has not.
        log: path of the file, relative to the home folder.
    """

    entry: Entry
    seed: str
    what: str
    status: str
    reason: str
    machine: str
    trial: str
    log: str
    note: str
    traceback: str
    log_tail: str

    @property
    def which(self) -> str:
        """The condition, seed and kind, which identify it among those of its router."""
        seed = f"seed {self.seed}" if self.seed else ""
        return ", ".join(filter(None, (self.entry.condition.label, seed, self.what)))


def incomplete(study: StudyData) -> list[Incomplete]:
    """Return the trials, then the measurements, without a result, in the database's order."""
    trials = study.trials[study.trials["status"] != "done"]
    failed = study.measurements[study.measurements["status"] == "failed"]
    logs = study.trials.dropna(subset="attempt").set_index("attempt")["log"]
    runs = [("training", row, row.log) for row in trials.itertuples()]
    runs += [(f"suite {row.suite}", row, logs.get(row.attempt)) for row in failed.itertuples()]
    return [_incomplete(*run) for run in runs]


def readable_status(status: str) -> str:
    """Return a status for readers: `out of memory`."""
    return status.replace("_", " ")


def text_of(value: Any) -> str:
    """Return a cell of a frame as text, or "" if it is empty."""
    return "" if pd.isna(value) else str(value)


def reason_of(status: str, error: Any) -> str:
    """Return in one line why a trial or a measurement gave no result."""
    lines = text_of(error).strip().splitlines()
    return NOT_DONE.get(status) or (lines[0] if lines else "no reason was recorded")


def _incomplete(what: str, row: Any, log: Any) -> Incomplete:
    return Incomplete(
        entry=row.entry,
        seed=text_of(row.seed),
        what=what,
        status="not done" if row.status in NOT_DONE else readable_status(row.status),
        reason=reason_of(row.status, row.error),
        machine=text_of(row.machine_name),
        trial=row.trial,
        log=text_of(log),
        note=text_of(getattr(row, "note", None)),
        traceback=text_of(row.traceback),
        log_tail=text_of(getattr(row, "log_tail", None)),
    )


SHORT = 12
"""How many characters of a fingerprint are shown; they suffice to distinguish trials."""
SECONDS = Column("seconds", "time", "s", digits=1, n=1)
NUMBERS = (
    Column("top1", "top-1", "%", scale=100, n=1),
    Column("flops", "FLOPs", "FLOP", si=True, n=1),
    Column("steps", "steps", digits=0, n=1),
    SECONDS,
)


@as_table("failures", "What failed, or is not done")
def failures(study: StudyData) -> Contents:
    """Make a row for each trial that is not done and each measurement that failed."""
    rows = []
    for each in incomplete(study):
        what = (each.entry.label, each.entry.condition.label, each.seed, each.what, each.status)
        why = (each.reason, each.note, each.machine, each.trial[:SHORT], each.log)
        rows.append(Row(tuple(map(words, (*what, *why))), 1, each.entry))
    if not rows:
        raise Lacking("every trial and every measurement is done", fine=True)
    heads = ("router", "condition", "seed", "what", "status", "reason", "note", "machine", "trial")
    caption = (
        "Trials that are not done and measurements that failed, each with the first line of its "
        "reason. Their numbers are in no mean; the other tables say how many seeds are left."
    )
    return caption, text_columns(*heads, "log"), rows


@as_table("trials", "Every trial")
def trials(study: StudyData) -> Contents:
    """Make a row for each trial, whatever its outcome."""
    if study.trials.empty:
        raise Lacking("the study has no trials")
    of = study.metrics
    end = of["layer"].isna() & of["step"].isna()
    last = of[(of["suite"] == "accuracy") & (of["metric"] == "top1") & end]
    top1 = last.drop_duplicates("trial", keep="last").set_index("trial")["value"]
    rows = []
    for row in study.trials.itertuples():
        values = (top1.get(row.trial), row.flops, row.steps, row.seconds)
        cells = (
            words(row.entry.label, *([OLDER] if row.older else [])),
            *_texts(row.condition, row.seed, readable_status(row.status)),
            *(_number(value, row.trial) for value in values),
            *_texts(row.note, row.machine_name, row.code),
            words(row.trial[:SHORT], trials=[row.trial]),
            *_texts(row.log),
        )
        rows.append(Row(cells, 1, row.entry))
    older = older_trials_sentence(study.trials)
    caption = "One row per trial, n = 1 each." + (f" {OLDER} {older}" if older else "")
    heads = text_columns("router", "condition", "seed", "status")
    tails = text_columns("note", "machine", "code", "trial", "log")
    return caption, (*heads, *NUMBERS, *tails), rows


@as_table("layers", "Every bare layer")
def layers(study: StudyData) -> Contents:
    """Make a row for each bare layer on each machine that timed it."""
    rows = []
    for row in study.measurements[study.measurements["attempt"].isna()].itertuples():
        what = (row.entry.label, row.condition, row.suite, readable_status(row.status))
        cells = (
            *_texts(*what, row.machine_name, row.code),
            _number(row.seconds, row.trial),
            words(row.trial[:SHORT], trials=[row.trial]),
        )
        rows.append(Row(cells, 1, row.entry))
    if not rows:
        raise Lacking("no bare layer was asked for", fine=True)
    heads = text_columns("router", "condition", "suite", "status", "machine", "code")
    caption = "Untrained layers: one row per measurement, n = 1 each."
    return caption, (*heads, SECONDS, *text_columns("layer")), rows


def _texts(*values: Any) -> list[Cell]:
    return [words(text_of(value)) for value in values]


def _number(value: Any, trial: str) -> Cell:
    text = text_of(value)
    return summary([float(text)] if text else [], trials=[trial])


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]")
"""Matches colours and other control sequences of terminals."""


class Logs:
    """Links to log files, by their paths in the database.

    Args:
        home: the folder that these paths are relative to; None if it is not known.
        page: the folder of the page.
    """

    def __init__(self, home: Path | str | None, page: Path | str) -> None:
        self._home = None if home is None else Path(home).absolute()
        self._page = Path(page).absolute()

    def link(self, log: str) -> str | None:
        """Return the address of a log relative to the page, or None if the file is not there."""
        if not log or self._home is None or not (self._home / log).is_file():
            return None
        return quote(Path(os.path.relpath(self._home / log, self._page)).as_posix())


def readable(text: str) -> str:
    """Return the text of a log without terminal control sequences."""
    return _CONTROL.sub("", text)
