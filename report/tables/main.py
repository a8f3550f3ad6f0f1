"""The main table: what each router reached, what it cost, and how it routed."""

from __future__ import annotations

from dataclasses import replace

from report import tuning
from report.comparisons import against_nulls
from report.parts import Absent
from report.study import StudyData
from report.tables import over_nulls
from report.tables.cells import (
    BEST,
    INTERVALS,
    LEAD,
    lead,
    metric_cell,
    sentence_on_looks,
    stands_under,
)
from report.tables.spent import what_is_matched
from report.tables.table import Column, Row, Table, assemble
from report.tables.throughput import number
from report.timings import of_entry, representative, timings
from report.topics import generic

NAME, TITLE = "main", "Routers at equal budgets"
ACCURACY = {
    "top1": Column("top1", "top-1", "%", "higher", 100, 1, ranked=True),
    "top5": Column("top5", "top-5", "%", "higher", 100, 1, ranked=True),
    "nll": Column("nll", "NLL", "nat", "lower", digits=3, ranked=True),
    "ece": Column("ece", "ECE", "%", "lower", 100, 1, ranked=True),
}
COST = {
    "train_flops": Column("train_flops", "training", "FLOP", si=True),
    "params_total": Column("params_total", "params", si=True),
    "params_active": Column("params_active", "active", si=True),
}
BALANCE = {
    "load_cv": Column("load_cv", "load CV", "", "lower"),
    "dropped": Column("dropped", "dropped", "%", "lower", 100, 1),
    "uncovered": Column("uncovered", "uncovered", "%", "lower", 100, 1),
}
GATES, COMBINE = {"of": "gates", "kind": "soft"}, {"of": "combine", "kind": "soft"}
ENTROPY = (
    ("H_s", GATES, Column("H_s", "H_s", "bit")),
    ("H_u", GATES, Column("H_u", "H_u", "bit")),
    ("MI_label_corrected", COMBINE, Column("MI", "I(E;Y)", "bit")),
)


def table(study: StudyData) -> Table | Absent:
    """A row for each router under each condition."""
    if not study.entries:
        return Absent(NAME, TITLE, "the study has no trials; bare layers alone have no accuracy")
    found = timings(study)
    setting = representative(found)
    compared, under = against_nulls(study), stands_under(study)
    others = generic.headlines(study)
    rows = []
    for entry in study.entries:
        n = study.finished(entry)
        cells = lead(study, entry, n)
        cells += [metric_cell(study, metric, entry) for metric in ACCURACY]
        cells += over_nulls.cells(study, compared, entry)
        cells += [metric_cell(study, metric, entry) for metric in COST]
        timing = of_entry(found, setting, entry)
        cells.append(replace(number(timing, "forward_overhead"), low=None, high=None))
        cells += [metric_cell(study, metric, entry) for metric in BALANCE]
        cells += [metric_cell(study, metric, entry, **where) for metric, where, _ in ENTROPY]
        cells += [other.cell(entry) for other in others]
        rows.append(Row(tuple(cells), n, entry, under[entry]))
    columns = [*LEAD, *ACCURACY.values(), *over_nulls.columns(study), *COST.values()]
    columns += [Column("forward_overhead", "overhead", "×", "lower", n=1)]
    columns += [*BALANCE.values(), *(column for _, _, column in ENTROPY)]
    columns += [other.column for other in others]
    where = f"{setting.title} ({setting.sizes}) on {setting.machine}" if setting else ""
    told = " ".join([caption(study, where), *(other.sentence for other in others)])
    return assemble(NAME, TITLE, told, columns, rows)


def caption(study: StudyData, timed: str) -> str:
    """What the columns are; `timed` what the overhead is of, "" where nothing was timed."""
    parts = [
        what_is_matched(study),
        "Accuracy on the test split.",
        INTERVALS,
        sentence_on_looks(study),
        BEST,
        over_nulls.caption(study),
        tuning.sentence(study),
        "Training: FLOPs spent. Load CV, dropped, uncovered, H_s and H_u (of the gates), I(E;Y) "
        "(of the combine weights and the class, bias-corrected): means over the MoE layers. "
        "Dropped: choices of tokens that were lost to capacity; uncovered: tokens that no expert "
        "processed.",
        f"Overhead: median forward time over that of a dense MLP of the same expert FLOPs, {timed}."
        if timed
        else "",
        f"Routers are told with their experts, but for the usual ones ({study.usual_experts})."
        if study.usual_experts
        else "",
    ]
    return " ".join(filter(None, parts))
