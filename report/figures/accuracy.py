"""Test accuracy of each router, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import fill

from matplotlib.axes import Axes

from report.entries import Entry
from report.figures.canvas import COLUMN, FAINT, PAGE, PAPER, Drawing, label_routers, panels, style
from report.figures.focus import far_nulls
from report.figures.intervals import CUT, halves, is_cut, limits, mark_cut
from report.parts import Absent
from report.study import StudyData
from report.systems import DENSE
from report.tables.cells import sentence_on_looks, why_without
from results.conditions import Condition
from results.statistics import mean_interval
from results.statistics.intervals import Interval

NAME, TITLE = "accuracy", "Test accuracy by router"
CAPTION = (
    "Top-1 accuracy on the test split. Large marker: mean over the n seeds; bar: 95 % Student t "
    "interval of that mean (none where n = 1); small dots: the seeds. Dashed line: mean of dense, "
    "the model without MoE layers."
)
COLUMNS = 2
ARROW = "Arrow: a null beyond the axis, its mean ± half of its interval."


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure, a panel for each condition."""
    if not any(len(study.final("top1", entry)) for entry in study.entries):
        yield Absent(NAME, TITLE, why_without(study, "accuracy", "a test accuracy"))
        return
    conditions = study.conditions
    single = len(conditions) == 1
    routers = [name for name in study.routers if any(e.router == name for e in study.entries)]
    height = 0.5 + (0.27 if single else 0.25) * len(routers)
    with style():
        figure, axes = panels(
            len(conditions), COLUMNS, COLUMN if single else PAGE, height, sharey=True, sharex=True
        )
        values = {e: list(100 * study.final("top1", e)) for e in study.entries}
        far = far_nulls(study, values)
        near = {e: found for e, found in values.items() if found and e not in far}
        intervals = [mean_interval(found, study.confidence) for found in near.values()]
        ends = limits([v for found in near.values() for v in found], intervals, (0, 100))
        for condition, place in zip(conditions, axes, strict=True):
            place.set_title(fill(condition.label, 44, break_long_words=False))
            _panel(place, study, routers, condition, far, ends)
        for lowest in axes[-COLUMNS:]:
            lowest.set_xlabel("top-1 accuracy (%)")
        axes[0].set_xlim(*ends)
    cut = CUT if any(is_cut(interval, ends) for interval in intervals) else ""
    told = (CAPTION, cut, ARROW if far else "", sentence_on_looks(study))
    caption = " ".join(filter(None, told))
    yield Drawing(NAME, TITLE, caption, figure, tuple(study.entries))


def _panel(
    axes: Axes,
    study: StudyData,
    routers: list[str],
    condition: Condition,
    far: Mapping[Entry, bool],
    ends: tuple[float, float],
) -> None:
    beside = axes.get_yaxis_transform()
    for place, router in enumerate(routers):
        entry = study.entry(router, condition)
        values = 100 * study.final("top1", entry)
        if values.empty:
            axes.text(
                0.5,
                place,
                "no finished trial",
                transform=beside,
                ha="center",
                va="center",
                color=FAINT,
                fontsize=7,
            )
            continue
        look, interval = study.looks[router], mean_interval(list(values), study.confidence)
        axes.annotate(
            f"n={interval.n}", (1.02, place), xycoords=beside, va="center", fontsize=7, color=FAINT
        )
        if entry is not None and entry in far:
            _arrow(axes, place, interval, above=far[entry])
            continue
        if router == DENSE:
            axes.axvline(interval.mean, color=FAINT, lw=0.8, ls=(0, (4, 2)), zorder=0)
        if interval.n > 1:
            level = [place + 0.27] * len(values)
            axes.scatter(values, level, s=5, color=look.colour, lw=0, clip_on=False)
        axes.errorbar(
            [interval.mean],
            [place],
            xerr=halves(interval, ends),
            color=look.colour,
            marker=look.marker,
            markersize=5.5,
            mec=PAPER,
            mew=0.5,
            elinewidth=1.3,
            clip_on=False,
        )
        mark_cut(axes, interval, ends, place, look.colour)
    label_routers(axes, routers)


def _arrow(axes: Axes, place: int, interval: Interval, *, above: bool) -> None:
    """That a mean lies beyond the axis."""
    half = "" if interval.low is None else f" ± {interval.mean - interval.low:.1f}"
    number = f"{interval.mean:.1f}{half}"
    axes.annotate(
        f"{number} ▸" if above else f"◂ {number}",
        (0.98 if above else 0.02, place),
        xycoords=axes.get_yaxis_transform(),
        ha="right" if above else "left",
        va="center",
        fontsize=7,
        color=FAINT,
    )
