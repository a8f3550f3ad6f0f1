"""The tuning table: how often each router was tried, the best score and its settings."""

from __future__ import annotations

from report.parts import Absent
from report.study import StudyData
from report.tables.table import Cell, Column, Row, Table, assemble, words
from report.tuning import Tuned, told, tuned, unequal

NAME, TITLE = "tuning", "Tuning"
COLUMNS = (
    Column("router", "router", words=True),
    Column("trials", "trials", digits=0),
    Column("pruned", "pruned", digits=0),
    Column("failed", "failed", digits=0),
    Column("best", "best validation top-1", "%", "higher", 100, 2),
    Column("training", "its trial", words=True),
    Column("settings", "its settings", words=True),
)
CAPTION = (
    "The best settings of each router, by the accuracy on the validation split at the end of one "
    "training each; the test split was not read. The score is the best of all trials, so it is "
    "higher than what the settings are worth. Pruned: stopped early, since not promising; failed: "
    "left no model. Both count as trials."
)


def table(study: StudyData) -> Table | Absent:
    """A row for each router whose settings were found."""
    found = tuned(study)
    if not found:
        return Absent(NAME, TITLE, "no settings were tuned (tune, then run --tuned)", fine=True)
    rows = [_row(study, router, each) for router, each in found.items()]
    caption = " ".join(filter(None, (CAPTION, _where(study), unequal(study))))
    return assemble(NAME, TITLE, caption, COLUMNS, rows)


def _row(study: StudyData, router: str, each: Tuned) -> Row:
    counts = (each.trials, each.pruned, each.failed)
    trials = tuple(filter(None, each.trainings))
    cells = (
        words(router),
        *(Cell(float(count), trials=trials) for count in counts),
        Cell(each.best, n=1, trials=(each.training,), values=(each.best,)),
        words(each.training[:10]),
        words(told(each.settings)),
    )
    return Row(cells, None, next((e for e in study.entries if e.router == router), None))


def _where(study: StudyData) -> str:
    """The condition of the tuning, where the study has several."""
    sweep = study.record.request["preset"].get("sweep", {})
    at = ", ".join(f"{path}={values[0]}" for path, values in sweep.items())
    return f"Tuned at {at} alone, and used under every condition." if at else ""
