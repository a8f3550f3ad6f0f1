"""Fairness before and after experts were re-weighted, and what it cost."""

from __future__ import annotations

from dataclasses import replace

from report.parts import Absent
from report.study import StudyData
from report.tables.cells import INTERVALS, LEAD, lead, measured, metric_cell, why_unmeasured
from report.tables.table import Column, Row, Table, assemble

NAME, TITLE = "editing", "Fairness before and after editing experts"
PAIRED = (
    Column("subgroup_accuracy_min", "worst subgroup", "%", "higher", 100, 1),
    Column("subgroup_accuracy_mean", "mean subgroup", "%", "higher", 100, 1),
    Column("bias_std", "std", "points", "lower", 100, 1),
    Column("opportunity_gap", "opportunity gap", "points", "lower", 100, 1),
    Column("editing_top1", "top-1", "%", "higher", 100, 1),
)
EDITS = ("before", "after")
EDITED = Column("edited_experts", "experts edited", digits=1)
CAPTION = (
    "On the test split, before the experts' combine weights were changed and after it. "
    f"Which experts, and by how much, was chosen on the validation split. {INTERVALS} "
    "Subgroups: the images of a class with a value of the protected attribute. Worst: max-min "
    "fairness; std: population standard deviation of the subgroups' accuracies; opportunity gap: "
    "largest difference of true positive rates between two values of the attribute (of class 1 "
    "where there are two classes); experts edited: of all layers."
)


def table(study: StudyData) -> Table | Absent:
    """A row for each router and condition."""
    entries = measured(study, "editing")
    if not entries:
        return Absent(NAME, TITLE, why_unmeasured(study, "editing"))
    columns = [
        replace(column, key=f"{column.key}_{edit}", label=f"{column.label} {edit}")
        for column in PAIRED
        for edit in EDITS
    ]
    rows = []
    for entry in entries:
        n = len(study.final("editing_top1", entry, edit="before"))
        cells = [
            metric_cell(study, column.key, entry, edit=edit) for column in PAIRED for edit in EDITS
        ]
        cells.append(metric_cell(study, EDITED.key, entry))
        rows.append(Row((*lead(study, entry, n), *cells), n, entry))
    return assemble(NAME, TITLE, CAPTION, (*LEAD, *columns, EDITED), rows)
