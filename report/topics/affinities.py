"""Affinity × allocation: how tokens become logits, and how logits become a routing.

A heat map of test accuracy over the two choices that arXiv 2401.15969 separates.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from report.axes import colour_bar
from report.conditions import Entry, System
from report.render import interval_text
from report.study import StudyData
from report.style import INK, PAGE, PAPER, folded, panels
from report.table import Cell, Column, Lacking, file_name, title
from report.topics.make import Named, Sketch, as_named_figures
from results.conditions import Condition
from results.statistics.means import mean_interval

AFFINITY = "router.affinity"
NAME, TITLE = "affinities", "Affinity × allocation"
CAPTION = (
    "Top-1 accuracy on the test split, in %, by affinity (how tokens become logits; columns) and "
    "router (how logits become a routing; rows). Mean over the seeds ± half the width of its 95 % "
    "Student t interval (none where n = 1). Empty: not trained."
)
TOP1 = Column("top1", "top-1", "%", digits=1)
COLOURS = "cividis"

Cells = Mapping[tuple[System, str], Entry]


@as_named_figures(NAME, TITLE, "accuracy")
def draw(study: StudyData) -> Iterator[Named]:
    """Draw a heat map for each setting of the other paths, if several affinities were swept."""
    by_rest: dict[Condition, dict[tuple[System, str], Entry]] = {}
    for entry in study.entries:
        affinity = entry.condition.mapping.get(AFFINITY)
        if affinity is not None and len(study.final("top1", entry)):
            rest = entry.condition.where(lambda path: not path.startswith(AFFINITY))
            options = entry.condition.where(lambda path: path.startswith(f"{AFFINITY}_"))
            by_rest.setdefault(rest, {})[entry.system, f"{affinity} {options}".strip()] = entry
    shown = {
        rest: cells
        for rest, cells in by_rest.items()
        if len({entry.condition.mapping[AFFINITY] for entry in cells.values()}) > 1
    }
    if not shown:
        raise Lacking("no two affinities were compared (--sweep router.affinity=…)", fine=True)
    for rest, cells in shown.items():
        yield file_name(NAME, rest), title(TITLE, rest), partial(_sketch, study, cells)


def _sketch(study: StudyData, cells: Cells) -> Sketch:
    shown = {system for system, _ in cells}
    systems = [system for system in study.systems if system in shown]
    affinities = sorted({affinity for _, affinity in cells})
    places = {(systems.index(s), affinities.index(a)): entry for (s, a), entry in cells.items()}
    means = np.full((len(systems), len(affinities)), np.nan)
    for place, entry in places.items():
        means[place] = 100 * study.final("top1", entry).mean()
    figure, (axes,) = panels(1, 1, PAGE, 0.6 + 0.25 * len(systems))
    norm = Normalize(float(np.nanmin(means)), float(np.nanmax(means)))
    axes.imshow(means, cmap=COLOURS, norm=norm, aspect="auto", interpolation="nearest")
    for (row, column), entry in places.items():
        _write(axes, study, entry, row, column, float(norm(means[row, column])))
    axes.set_xticks(range(len(affinities)), [folded(name, 20) for name in affinities])
    axes.set_yticks(range(len(systems)), [folded(str(system), 40) for system in systems])
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    colour_bar(figure, [axes], norm, COLOURS, TOP1.heading)
    return CAPTION, figure, cells.values()


def _write(axes: Axes, study: StudyData, entry: Entry, row: int, column: int, shade: float) -> None:
    """Write the mean and its interval into a cell; `shade`: 0 is the darkest, 1 the lightest."""
    interval = mean_interval(list(100 * study.final("top1", entry)), study.confidence)
    half = interval_text(TOP1, Cell(low=interval.low, high=interval.high))
    text = f"{TOP1.number(interval.mean)}{half}"
    colour = INK if shade > 0.5 else PAPER
    axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
