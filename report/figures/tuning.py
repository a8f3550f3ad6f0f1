"""What more trials of tuning would be worth: the best score against their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.colours import Look
from report.figures.canvas import PAGE, Drawing, panels, router_legend, style
from report.parts import Absent
from report.study import StudyData
from report.tuning import Tuned, tuned
from results.statistics.tuning import expected_best

NAME, TITLE = "tuning", "Tuning curve"
CAPTION = (
    "Best top-1 accuracy on the validation split against the number of trials. Left: as they were "
    "drawn. Right: expected of as many trials, drawn without replacement from those that were made "
    "(as arXiv 1909.03004). A pruned trial counts with its accuracy when it was stopped, a failed "
    "one with none. A curve that still rises at its end says that more trials would find better "
    "settings."
)


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure of all routers."""
    found = tuned(study)
    if not found:
        yield Absent(NAME, TITLE, "no settings were tuned (tune, then run --tuned)", fine=True)
        return
    entries = tuple(entry for entry in study.entries if entry.router in found)
    yield Drawing(NAME, TITLE, CAPTION, _figure(study, found), entries)


def _figure(study: StudyData, found: dict[str, Tuned]) -> Figure:
    looks = {name: study.looks[name] for name in found}
    with style():
        figure, (drawn, expected) = panels(2, 2, PAGE, 2.1 + 0.05 * len(found), sharey=True)
        for name, each in found.items():
            _line(drawn, np.maximum.accumulate(each.scores), looks[name], drawstyle="steps-post")
            _line(expected, expected_best(each.scores), looks[name])
        for axes, heading in ((drawn, "as drawn"), (expected, "expected")):
            axes.set_title(heading)
            axes.set_xlabel("trials")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid()
        drawn.set_ylabel("best validation top-1 (%)")
        router_legend(figure, looks, 3)
    return figure


def _line(axes: Axes, best: np.ndarray, look: Look, drawstyle: str = "default") -> None:
    axes.plot(
        np.arange(1, len(best) + 1),
        100 * best,
        color=look.colour,
        linestyle=look.dashes,
        marker=look.marker,
        markersize=3,
        drawstyle=drawstyle,
    )
