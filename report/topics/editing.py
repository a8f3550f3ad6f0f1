"""Fairness before and after experts were re-weighted, and what that cost in accuracy."""

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from report.cells import INTERVALS, LEAD, measured_by, metric_cell, metric_row, why_without
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, INK, PAGE, PAPER, RouterStyle, folded, panels
from report.table import Column, Lacking, captioned, panel_title
from report.topics.make import Contents, Sketch, as_figure, as_table

PAIRED = (
    Column("subgroup_accuracy_min", "worst subgroup", "%", "higher", 100, 1),
    Column("subgroup_accuracy_mean", "mean subgroup", "%", "higher", 100, 1),
    Column("bias_std", "std", "points", "lower", 100, 1),
    Column("opportunity_gap", "opportunity gap", "points", "lower", 100, 1),
    Column("editing_top1", "top-1", "%", "higher", 100, 1),
)
OFFSETS = {"before": -0.14, "after": 0.14}
"""The offset of each edit from the middle of its row."""
EDITED = Column("edited_experts", "experts edited", digits=1)
CAPTION = captioned(
    "On the test split, before and after the experts' combine weights were changed. "
    f"Which experts, and by how much, was chosen on the validation split. {INTERVALS}",
    "Subgroups: the images of a class with a value of the protected attribute. Worst: max-min "
    "fairness; std: population standard deviation of the subgroups' accuracies; opportunity gap: "
    "largest difference in true positive rates between two values of the attribute (of class 1 "
    "if there are two classes); experts edited: in all layers.",
)


@as_table("editing", "Fairness before and after editing experts", "editing")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition."""
    columns = [
        replace(column, key=f"{column.key}_{edit}", label=f"{column.label} {edit}")
        for column in PAIRED
        for edit in OFFSETS
    ]
    rows = []
    for entry in measured_by(study, "editing"):
        cells = [
            metric_cell(study, column.key, entry, edit=edit)
            for column in PAIRED
            for edit in OFFSETS
        ]
        rows.append(metric_row(study, entry, [*cells, metric_cell(study, EDITED.key, entry)]))
    return CAPTION, (*LEAD, *columns, EDITED), rows


FIGURE_CAPTION = (
    "Accuracy on the test split of each subgroup, of class and protected attribute: before "
    "(hollow) and after (filled) the experts' combine weights were changed, as chosen on the "
    "validation split. Large markers: means over the n seeds, joined by a line; small dots: the "
    "seeds. A model without MoE layers has no filled markers."
)


@as_figure("editing", "Subgroups before and after editing experts", "editing")
def draw(study: StudyData) -> Sketch:
    """Draw one figure with a panel for each router and, if it has several, each condition."""
    shown = {entry: edits for entry in study.entries if (edits := accuracies(study, entry))}
    if not shown:
        raise Lacking(why_without(study, "editing", "accuracies of subgroups"))
    subgroups = study.array("subgroup_names", next(iter(shown)))[0].values.ravel()
    names = [folded(str(name)) for name in subgroups]
    row = 0.12 + 0.12 * max(name.count("\n") + 1 for name in names)
    figure, axes = panels(len(shown), 4, PAGE, 0.6 + row * len(names), sharex=True, sharey=True)
    for (entry, edits), place in zip(shown.items(), axes, strict=True):
        _panel(place, edits, study.styles[entry.system])
        name = f"{entry.system} (n={len(edits['before'])})"
        place.set_title(folded(panel_title(name, entry, shown)))
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_xlim(-4, 104)
    figure.supxlabel("accuracy (%)", fontsize=7.5)
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=INK, mfc=fill, label=edit)
        for edit, fill in zip(OFFSETS, (PAPER, INK), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(OFFSETS))
    return FIGURE_CAPTION, figure, shown


def accuracies(study: StudyData, entry: Entry) -> dict[str, np.ndarray]:
    """Return (seeds, subgroups) in percent, by edit; subgroups by class, then by attribute."""
    by_edit = {}
    for edit in OFFSETS:
        records = study.array("subgroup_accuracy", entry, edit=edit)
        if records:
            by_edit[edit] = 100 * np.stack([np.ravel(record.values) for record in records])
    return by_edit


def _panel(axes: Axes, edits: dict[str, np.ndarray], style: RouterStyle) -> None:
    rows = np.arange(edits["before"].shape[1])
    means = {edit: values.mean(0) for edit, values in edits.items()}
    if "after" in means:
        ends = [means["before"], means["after"]]
        axes.plot(ends, [rows + offset for offset in OFFSETS.values()], color=FAINT, lw=0.8)
    for edit, values in edits.items():
        level = rows + OFFSETS[edit]
        if len(values) > 1:
            axes.scatter(values, np.tile(level, (len(values), 1)), s=4, color=style.colour, lw=0)
        hollow = {"mfc": PAPER, "mec": style.colour, "mew": 0.9} if edit == "before" else {}
        axes.plot(means[edit], level, **(style.point | hollow), linestyle="none", markersize=5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
