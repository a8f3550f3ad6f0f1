"""What is not there: trials that are not done, and measurements that failed, each with its why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from report.entries import Entry
from report.study import StudyData

NOT_DONE = {
    "waiting": "not run yet",
    "running": "worked on when this report was made",
    "interrupted": "stopped from outside; the next run goes on with it",
}
"""Statuses of trials that have not ended, in words."""


@dataclass(frozen=True)
class Undone:
    """A trial or a measurement without result.

    Attributes:
        what: `training`, or the suite.
        status: how it ended, in words; `not done` where it has not.
        reason: the first line of it.
        trial: fingerprint.
        log: file, named from the home folder; "" where there is none.
        traceback, log_tail: as they were written down; "" where they were not.
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
    def told(self) -> str:
        """Which of its router's it is."""
        seed = f"seed {self.seed}" if self.seed else ""
        return ", ".join(filter(None, (self.entry.condition.label, seed, self.what)))


def undone(study: StudyData) -> list[Undone]:
    """Trials first, then measurements, each in the order of the database."""
    trials = study.trials[study.trials["status"] != "done"]
    failed = study.measurements[study.measurements["status"] == "failed"]
    logs = study.trials.dropna(subset="attempt").set_index("attempt")["log"]
    return [
        *(_undone("training", row, row.log) for row in trials.itertuples()),
        *(_undone(f"suite {row.suite}", row, logs.get(row.attempt)) for row in failed.itertuples()),
    ]


def in_words(status: str) -> str:
    """A status for readers: `out of memory`."""
    return status.replace("_", " ")


def text_of(value: Any) -> str:
    """A cell of a frame; "" where there is nothing in it."""
    return "" if pd.isna(value) else str(value)


def _undone(what: str, row: Any, log: Any) -> Undone:
    lines = text_of(row.error).strip().splitlines()
    words = NOT_DONE.get(row.status)
    return Undone(
        entry=Entry(row.router, row.condition),
        seed=text_of(row.seed),
        what=what,
        status="not done" if words else in_words(row.status),
        reason=words or (lines[0] if lines else "no reason was recorded"),
        machine=text_of(row.machine_name),
        trial=row.trial,
        log=text_of(log),
        note=text_of(getattr(row, "note", None)),
        traceback=text_of(row.traceback),
        log_tail=text_of(getattr(row, "log_tail", None)),
    )
