"""The win matrix: every pair of systems under a condition, and which of them differ."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from report.comparisons import METRIC, Comparison, comparisons
from report.conditions import Entry
from report.study import StudyData
from report.style import INK, PAGE, PAPER, blank
from report.table import Column, Lacking, number_of_runs
from report.topics.make import Sketch, as_figures
from results.conditions import Condition

CAPTION = (
    "Mean paired difference in test top-1, in points ({runs}): the system of the row minus that of "
    "the column, both numbered in the order of their means. Framed: resolved. Pairs that were not "
    "declared for comparison, such as two baselines, are empty."
)
POINTS = Column("points", "points", digits=1)
MOST = 12
"""The most systems for which each cell shows its number."""


@as_figures("win_matrix", "All pairs of systems", "accuracy")
def draw(study: StudyData, condition: Condition) -> Sketch:
    """Draw one matrix, with the best system first."""
    both = [
        each
        for one in comparisons(study)
        if one.condition == condition and one.difference is not None
        for each in (one, one.turned())
    ]
    if not both:
        raise Lacking("no two systems were compared", fine=True)
    means = {each.entry: study.final(METRIC, each.entry).mean() for each in both}
    entries = sorted(means, key=lambda entry: -means[entry])
    figure = blank(PAGE, 0.5 + min(5.0, 0.3 * len(entries)))
    axes = figure.subplots()
    _fill(axes, entries, both)
    runs = number_of_runs({entry.system: study.finished(entry) for entry in entries})
    return CAPTION.format(runs=runs), figure, entries


def _fill(axes: Axes, entries: list[Entry], compared: list[Comparison]) -> None:
    place = {entry: number for number, entry in enumerate(entries)}
    points = np.full((len(entries), len(entries)), np.nan)
    for each in compared:
        assert each.difference is not None
        points[place[each.entry], place[each.reference]] = 100 * each.difference.mean
    largest = float(np.nanmax(abs(points))) or 1.0
    norm = Normalize(-largest, largest)
    image = axes.imshow(points, cmap="PuOr_r", norm=norm, aspect="auto")
    for each in compared:
        row, column = place[each.entry], place[each.reference]
        value = points[row, column]
        if len(entries) <= MOST:
            colour = PAPER if abs(value) > 0.5 * largest else INK
            shown = POINTS.number(value)
            axes.text(column, row, shown, ha="center", va="center", fontsize=7, color=colour)
        if each.resolved:
            corner = (column - 0.44, row - 0.44)
            axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=INK, linewidth=0.9))
    numbers = range(1, len(entries) + 1)
    axes.set_xticks(range(len(entries)), [str(number) for number in numbers])
    labels = [f"{entry.label}  {number}" for entry, number in zip(entries, numbers, strict=True)]
    axes.set_yticks(range(len(entries)), labels)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
    bar.ax.set_title("points", fontsize=7)
