"""What the experts are for: what is lost when each is switched off."""

from __future__ import annotations

from report.parts import Absent
from report.study import StudyData
from report.tables.cells import (
    BEST,
    INTERVALS,
    LEAD,
    lead,
    measured,
    metric_cell,
    stands_under,
    why_unmeasured,
)
from report.tables.table import Column, Row, Table, assemble

NAME, TITLE = "specialization", "What classes lose without an expert"
COLUMNS = (
    Column("polysemanticity", "polysemanticity", "", "lower", digits=3, ranked=True),
    Column("experts_with_effect", "with effect", "%", scale=100, digits=1),
    Column("largest_drop", "largest drop", "points", scale=100, digits=1),
    Column("accuracy_drop", "accuracy drop", "points", scale=100),
    Column("experts_left_out", "left out", digits=1),
    Column("passes", "passes", "%", scale=100, digits=1),
)


def table(study: StudyData) -> Table | Absent:
    """A row for each router and condition: means over the MoE layers."""
    entries = measured(study, "specialization")
    if not entries:
        return Absent(NAME, TITLE, why_unmeasured(study, "specialization"))
    rows, under = [], stands_under(study)
    for entry in entries:
        n = len(study.final("experts_with_effect", entry))
        cells = [metric_cell(study, column.key, entry) for column in COLUMNS]
        rows.append(Row((*lead(study, entry, n), *cells), n, entry, under[entry]))
    caption = (
        "Over the test split at the end of training, mean over the MoE layers; experts are "
        f"switched off one by one, and nothing is routed anew. {INTERVALS} Polysemanticity: "
        "distance between d / length of d and the one-hot vector of its largest entry, where d is "
        "the accuracy that each class loses without the expert (0: the expert serves one class); "
        "mean over the experts with an effect. Largest drop: of the class that loses most, mean "
        "over the same. Accuracy drop: mean over the experts switched off; left out: those that "
        f"were not. Passes: images run again, of one pass for each expert. {BEST}"
    )
    return assemble(NAME, TITLE, caption, (*LEAD, *COLUMNS), rows)
