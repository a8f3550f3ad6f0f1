"""The critical-difference diagram: average ranks, and which of them do not differ."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.figures.canvas import FAINT, INK, PAGE, Drawing, blank, style
from report.parts import Absent
from report.standings import standings, why_not
from report.study import StudyData
from report.tables.ranks import verdict
from results.statistics.ranks import Ranking, ranking

NAME, TITLE = "critical_difference", "Critical-difference diagram"
CAPTION = (
    "Average rank of each router over {blocks} conditions by mean top-1, the best on the left. A "
    "grey bar joins routers that Nemenyi's test does not tell apart; CD: the critical difference. "
    "{verdict}"
)


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure of all conditions."""
    values = standings(study)
    if why := why_not(values):
        yield Absent(NAME, TITLE, why, fine=True)
        return
    found = ranking(values)
    entries = [e for e in study.entries if e.router in found.ranks.index]
    caption = CAPTION.format(blocks=found.blocks, verdict=verdict(found))
    yield Drawing(NAME, TITLE, caption, _figure(found, study), tuple(entries))


def _figure(found: Ranking, study: StudyData) -> Figure:
    # Slow to import, and few studies have conditions enough.
    from scikit_posthocs import critical_difference_diagram

    with style():
        figure = blank(PAGE, 1.0 + 0.16 * len(found.ranks))
        axes = figure.subplots()
        drawn = critical_difference_diagram(
            found.ranks,
            found.pairs,
            ax=axes,
            label_fmt_left="{label}  {rank:.2f}",
            label_fmt_right="{rank:.2f}  {label}",
            color_palette={name: study.looks[name].colour for name in found.ranks.index},
            label_props={"fontsize": 7},
            text_h_margin=0.04 * len(found.ranks),
            crossbar_props={"color": FAINT, "linewidth": 2.4, "solid_capstyle": "butt"},
            elbow_props={"linewidth": 0.8},
            marker_props={"s": 14},
        )
        for label in drawn["labels"]:
            label.set_color(INK)
        axes.spines["top"].set_visible(True)
        _scale(axes, found.critical_difference)
    return figure


def _scale(axes: Axes, difference: float) -> None:
    """A bar as long as the critical difference, above the axis and its numbers."""
    axes.plot([1, 1 + difference], [1.5, 1.5], color=INK, linewidth=1.0, marker="|", markersize=5)
    axes.text(
        1 + difference / 2, 1.7, f"CD = {difference:.2f}", ha="center", va="bottom", fontsize=7
    )
