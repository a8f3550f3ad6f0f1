"""The same runs by other budgets: accuracy against seconds, and against parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from report.budgets import Standing, curves, standings, why_not
from report.entries import ANY, Entry
from report.figures.canvas import FAINT, PAGE, PAPER, Drawing, panels, router_legend, style
from report.figures.focus import far_nulls, name_far
from report.parts import Absent, file_name, title, told_runs
from report.study import StudyData

NAME, TITLE = "budgets", "Accuracy by seconds and by parameters"
CAPTION = (
    "Left: top-1 accuracy on the validation split against seconds of training until then, mean "
    "over the seeds ({counts}) where all have come, on one machine; dotted: where every run has "
    "come, and the ranking by seconds is read. Right: that at the end of training against "
    "parameters, mean over the seeds; dashed: the first front, of those that none surpasses with "
    "no more parameters."
)
POINTS = 100
"""Of a mean curve."""


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure for each condition."""
    for condition in study.conditions or [ANY]:
        name, heading = file_name(NAME, condition), title(TITLE, condition)
        _, by_seconds, by_parameters = standings(study, condition)
        if why := why_not([by_seconds, by_parameters]):
            yield Absent(name, heading, *why)
            continue
        entries = tuple(by_parameters.ranks)
        ends = {entry: 100 * values.mean() for entry, values in by_parameters.accuracy.items()}
        lines = {entry: mean_curve(study, entry, by_seconds.machine) for entry in entries}
        heights = {e: [end, *lines[e]] for e, end in ends.items()}
        far = far_nulls(study, heights)
        near = [entry for entry in entries if entry not in far]
        with style():
            figure, (left, right) = panels(2, 2, PAGE, 2.1 + 0.05 * len(entries), sharey=True)
            _draw_seconds(left, study, by_seconds.cut, {entry: lines[entry] for entry in near})
            _draw_parameters(right, study, by_parameters, near)
            name_far(left, far, ends)
            left.set_ylabel("validation top-1 (%)")
            router_legend(figure, {e.router: study.looks[e.router] for e in near}, 3)
        counts = told_runs({e.router: len(v) for e, v in by_seconds.accuracy.items()})
        yield Drawing(name, heading, CAPTION.format(counts=counts), figure, entries)


def mean_curve(study: StudyData, entry: Entry, machine: str | None) -> pd.Series:
    """Mean accuracy over the seeds, in %, by seconds; from where all were evaluated to their end.

    Empty where there is none, or one ended before another was evaluated.
    """
    found = list(curves(study, entry, "seconds", machine).values())
    if not found:
        return pd.Series(dtype=float)
    begin = max(curve.index[0] for curve in found)
    end = min(curve.index[-1] for curve in found)
    if begin > end:
        return pd.Series(dtype=float)
    seconds = np.linspace(begin, end, POINTS)
    each = [np.interp(seconds, curve.index, curve.to_numpy()) for curve in found]
    return pd.Series(100 * np.mean(each, axis=0), seconds)


def _draw_seconds(
    axes: Axes, study: StudyData, cut: float | None, lines: Mapping[Entry, pd.Series]
) -> None:
    for entry, curve in lines.items():
        look = study.looks[entry.router]
        axes.plot(
            curve.index,
            curve.to_numpy(),
            color=look.colour,
            linestyle=look.dashes,
            marker=look.marker,
            markersize=3,
            markevery=POINTS // 6,
        )
    if cut is not None:
        axes.axvline(cut, color=FAINT, lw=0.8, ls=":", zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of training")
    axes.grid()


def _draw_parameters(
    axes: Axes, study: StudyData, standing: Standing, near: Sequence[Entry]
) -> None:
    places = {
        entry: (study.final("params_total", entry).mean(), 100 * standing.accuracy[entry].mean())
        for entry in near
    }
    front = sorted(place for entry, place in places.items() if standing.ranks[entry] == 1)
    axes.plot(*zip(*front, strict=True), color=FAINT, lw=0.8, ls=(0, (4, 2)), zorder=0)
    for entry, place in places.items():
        look = study.looks[entry.router]
        axes.plot(*place, color=look.colour, marker=look.marker, ls="", mec=PAPER, mew=0.5)
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid()
