"""What each router really spent, whatever was matched."""

from __future__ import annotations

import json
from statistics import fmean

from report.entries import Entry
from report.parts import Absent
from report.study import StudyData
from report.tables.cells import INTERVALS, LEAD, lead, metric_cell
from report.tables.table import MISSING, Cell, Column, Row, Table, assemble, words
from report.timings import machine_names

NAME, TITLE = "spent", "What each router really spent"
MATCHED = {
    "total_flops": "the FLOPs of a training; the number of steps follows",
    "step_flops": "the FLOPs of a training step, by the width of the experts",
    "params": "the parameters of the model, by the width of the experts",
    "wall_clock": "the seconds of a training",
    "steps": "the number of steps alone",
}
METRICS = {
    "budget_error": Column("budget_error", "off budget", "%", scale=100, digits=2),
    "train_flops": Column("train_flops", "training", "FLOP", si=True),
    "step_flops": Column("step_flops", "a step", "FLOP", si=True),
    "steps": Column("steps", "steps", digits=0),
    "params_total": Column("params_total", "params", si=True),
    "params_active": Column("params_active", "active", si=True),
    "slots_per_choice": Column("slots_per_choice", "real capacity"),
}
ASKED = Column("capacity_factor", "capacity asked for")
SECONDS = Column("train_seconds", "training", "s", digits=1)
MACHINE = Column("machine", "on", words=True)


def table(study: StudyData) -> Table | Absent:
    """A row for each router under each condition."""
    entries = [entry for entry in study.entries if not study.final("train_flops", entry).empty]
    if not entries:
        return Absent(NAME, TITLE, "no finished trial was measured by accuracy")
    rows = []
    for entry in entries:
        n = study.finished(entry)
        cells = lead(study, entry, n)
        cells += [metric_cell(study, metric, entry) for metric in METRICS]
        cells += [_asked(study, entry), *_seconds(study, entry)]
        rows.append(Row(tuple(cells), n, entry))
    columns = (*LEAD, *METRICS.values(), ASKED, SECONDS, MACHINE)
    return assemble(NAME, TITLE, _caption(study), columns, rows)


def _caption(study: StudyData) -> str:
    return (
        f"{what_is_matched(study)} Off budget: what was spent of what is matched, over the budget, "
        "less 1. Training and steps: forward and backward passes, as counted from what ran. "
        "Active: parameters that act on a token, on average. Real capacity: slots that the experts "
        "run for each choice of a token (for each token where tokens do not choose), used or not, "
        "mean over the MoE layers, outside training; asked for: the capacity factor. Seconds: of "
        "training, evaluations left out, with whatever else the machine did meanwhile; those of "
        f"several machines are not pooled. {INTERVALS}"
    )


def what_is_matched(study: StudyData) -> str:
    """What was made equal between the routers, in a sentence; "" where a study matched several."""
    match = study.compute.get("match", "total_flops")
    if any("compute.match" in entry.condition.mapping for entry in study.entries):
        return ""
    return f"Equal between the routers: {MATCHED[match]}."


def _asked(study: StudyData, entry: Entry) -> Cell:
    """The capacity factor; "" of a router that has no such setting."""
    trials = study.trials_of(entry)
    factors = [json.loads(options).get("capacity_factor", "") for options in trials["options"]]
    if not all(isinstance(factor, float | int) for factor in factors):
        return words("none" if None in factors else "")
    return Cell(fmean(factors), trials=tuple(trials["trial"]))


def _seconds(study: StudyData, entry: Entry) -> tuple[Cell, Cell]:
    """Seconds of training, and whose they are."""
    trials = study.trials_of(entry)
    names = machine_names(study)
    machines = [names[machine] for machine in trials["machine"].dropna().unique()]
    if len(machines) != 1:
        return words(MISSING), words(", ".join(machines))
    return metric_cell(study, "train_seconds", entry), words(machines[0])
