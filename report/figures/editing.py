"""Accuracy of each subgroup before and after experts were re-weighted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from report.colours import Look
from report.entries import Entry
from report.figures.canvas import FAINT, INK, PAGE, PAPER, Drawing, folded, panels, style
from report.parts import Absent, title
from report.study import StudyData
from report.tables.cells import why_without

NAME, TITLE = "editing", "Subgroups before and after editing experts"
CAPTION = (
    "Accuracy on the test split of each subgroup, of class and protected attribute: before "
    "(hollow) and after (filled) the experts' combine weights were changed, as was chosen on the "
    "validation split. Large markers: means over the n seeds, joined by a line; small dots: the "
    "seeds. A model without MoE layers has a before alone."
)
EDITS = {"before": -0.14, "after": 0.14}
"""How far from the middle of its row each is drawn."""


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure, a panel for each router, and each condition where it has several."""
    found = {entry: accuracies(study, entry) for entry in study.entries}
    shown = {entry: edits for entry, edits in found.items() if edits}
    if not shown:
        yield Absent(NAME, TITLE, why_without(study, "editing", "accuracies of subgroups"))
        return
    yield Drawing(NAME, TITLE, CAPTION, _figure(study, shown), tuple(shown))


def accuracies(study: StudyData, entry: Entry) -> dict[str, np.ndarray]:
    """(seeds, subgroups) in percent, by edit; subgroups by class, then by attribute."""
    found = {}
    for edit in EDITS:
        records = study.array("subgroup_accuracy", entry, edit=edit)
        if records:
            found[edit] = 100 * np.stack([np.ravel(record.values) for record in records])
    return found


def _figure(study: StudyData, shown: dict[Entry, dict[str, np.ndarray]]) -> Figure:
    told = study.array("subgroup_names", next(iter(shown)))[0].values.ravel()
    names = [folded(str(name)) for name in told]
    row = 0.12 + 0.12 * max(name.count("\n") + 1 for name in names)
    with style():
        figure, axes = panels(len(shown), 4, PAGE, 0.6 + row * len(names), sharex=True, sharey=True)
        for (entry, edits), place in zip(shown.items(), axes, strict=True):
            _panel(place, edits, study.looks[entry.router])
            several = sum(other.router == entry.router for other in shown) > 1
            name = f"{entry.router} (n={len(edits['before'])})"
            place.set_title(folded(title(name, entry.condition if several else "")))
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        axes[0].set_xlim(-4, 104)
        figure.supxlabel("accuracy (%)", fontsize=7.5)
        figure.legend(handles=_key(), loc="outside upper right", ncols=len(EDITS))
    return figure


def _panel(axes: Axes, edits: dict[str, np.ndarray], look: Look) -> None:
    rows = np.arange(edits["before"].shape[1])
    means = {edit: values.mean(0) for edit, values in edits.items()}
    if "after" in means:
        ends = [means["before"], means["after"]]
        axes.plot(ends, [rows + offset for offset in EDITS.values()], color=FAINT, lw=0.8)
    for edit, values in edits.items():
        level = rows + EDITS[edit]
        if len(values) > 1:
            axes.scatter(values, np.tile(level, (len(values), 1)), s=4, color=look.colour, lw=0)
        hollow = edit == "before"
        axes.plot(
            means[edit],
            level,
            linestyle="none",
            marker=look.marker,
            markersize=5,
            color=look.colour,
            mfc=PAPER if hollow else look.colour,
            mec=look.colour if hollow else PAPER,
            mew=0.9 if hollow else 0.5,
        )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _key() -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            color=INK,
            mfc=PAPER if edit == "before" else INK,
            label=edit,
        )
        for edit in EDITS
    ]
