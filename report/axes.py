"""The axes of figures: their limits, outliers left off them, and drawing shared by several figures.

Outlying nulls are named at the edge. For example, a dense model with every expert's parameters
gets so few steps from the budget that an axis reaching it would draw all routers as one point.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from report.conditions import DENSE, Entry, System
from report.study import StudyData
from report.style import FAINT, PAPER, RouterStyle, folded
from results.statistics.means import Interval

LEAST = 5.0
"""The least distance, in percentage points, at which a null counts as far off."""
SHORT = 6.0
"""The ratio of a logarithmic axis's ends below which its ticks are evenly spaced."""


def far_nulls(study: StudyData, values: Mapping[Entry, Sequence[float]]) -> dict[Entry, bool]:
    """Return the nulls that lie far off, with True for those above the rest, False for those below.

    Far off: all its values lie beyond those of the routers and dense by half of their range.

    Args:
        values: the values that an axis shows of each entry, in %.
    """
    nulls = {e for e in values if study.is_baseline(e.system) and e.system.router != DENSE}
    others = [value for entry, each in values.items() if entry not in nulls for value in each]
    if not others:
        return {}
    low, high = min(others), max(others)
    room = max((high - low) / 2, LEAST)
    measured = {entry: values[entry] for entry in nulls if len(values[entry])}
    below = {entry: False for entry, each in measured.items() if max(each) < low - room}
    return below | {entry: True for entry, each in measured.items() if min(each) > high + room}


def name_far(axes: Axes, far: Mapping[Entry, bool], means: Mapping[Entry, float]) -> None:
    """List the nulls that a y axis leaves out, with their means in %, in the lower right corner."""
    if not far:
        return
    names = [
        f"{entry.system} {'above' if above else 'below'}: {means[entry]:.1f} %"
        for entry, above in far.items()
    ]
    axes.text(
        0.98,
        0.04,
        "\n".join(sorted(names)),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=7,
        color=FAINT,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
    )


CUT = "Triangle: the interval goes on beyond the axis."


def limits(values: Sequence[float], intervals: Iterable[Interval]) -> tuple[float, float]:
    """Return the ends of an axis in percent that holds all values and most of the intervals.

    Args:
        values: one per seed.
    """
    lowest, highest = min(values), max(values)
    room = max((highest - lowest) / 2, LEAST)
    ends = [(i.low, i.high) for i in intervals if i.low is not None and i.high is not None]
    low = max(lowest - room, min([lowest, *(low for low, _ in ends)]))
    high = min(highest + room, max([highest, *(high for _, high in ends)]))
    margin = max(0.04 * (high - low), 0.5)
    return max(low - margin, 0), min(high + margin, 100)


def halves(interval: Interval, ends: tuple[float, float]) -> list[list[float]] | None:
    """Return how far an interval extends below and above its mean within an axis, or None."""
    if interval.low is None or interval.high is None:
        return None
    low, high = max(interval.low, ends[0]), min(interval.high, ends[1])
    return [[interval.mean - low], [high - interval.mean]]


def mark_cut(
    axes: Axes,
    interval: Interval,
    ends: tuple[float, float],
    across: float,
    colour: str,
    *,
    upright: bool = False,
) -> None:
    """Draw a triangle at each end of an axis that an interval goes beyond.

    Args:
        across: the position on the other axis.
        upright: whether the interval lies along the y axis instead of the x axis.
    """
    for end in beyond(interval, ends):
        place = (across, end) if upright else (end, across)
        marker = ("v^" if upright else "<>")[ends.index(end)]
        axes.plot(*place, marker=marker, markersize=3.5, mew=0, color=colour, clip_on=False)


def beyond(interval: Interval, ends: tuple[float, float]) -> list[float]:
    """Return the ends that an interval goes beyond."""
    if interval.low is None or interval.high is None:
        return []
    below, above = interval.low < ends[0], interval.high > ends[1]
    return [end for end, is_beyond in zip(ends, (below, above), strict=True) if is_beyond]


def draw_line(axes: Axes, style: RouterStyle, points: pd.DataFrame, along: str) -> None:
    """Draw a router's mean along a column, with a band from its lowest to its highest seed.

    Args:
        points: in order, with the columns `along`, `mean`, `low`, `high` and `n`, the number of
            seeds; a single seed has no band.
    """
    if points["n"].max() > 1:
        band = (points["low"], points["high"])
        axes.fill_between(points[along], *band, color=style.colour, alpha=0.15, lw=0)
    every = max(1, len(points) // 6)
    axes.plot(points[along], points["mean"], **style.line, markersize=3, markevery=every)


def over_seeds(rows: pd.DataFrame, along: str) -> pd.DataFrame:
    """Summarise `value` over seeds at each point along training, for `draw_line`.

    Args:
        rows: one per `seed` and point, in order; `along` is averaged, since seeds may differ in
            it if a time budget decides their steps.
    """
    return rows.groupby(rows.groupby("seed").cumcount()).agg(
        **{along: (along, "mean")},
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        n=("value", "size"),
    )


def log_ticks(axis: Axis) -> None:
    """Place the ticks of a logarithmic axis; call it after the lines are drawn."""
    low, high = axis.get_view_interval()
    # On a short axis, ticks at 1, 2 and 5 times powers of ten would leave one or none.
    axis.set_major_locator(MaxNLocator(4) if high / low < SHORT else LogLocator(subs=(1, 2, 5)))


def colour_bar(
    figure: Figure, axes: Sequence[Axes], norm: Normalize, colours: str, label: str
) -> None:
    """Draw one colour bar for all axes, to the right of them."""
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=list(axes), shrink=0.9, aspect=30, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def label_systems(axes: Axes, systems: Sequence[System]) -> None:
    """Label the y axis with systems, the first at the top."""
    axes.set_yticks(range(len(systems)), [folded(system.label) for system in systems])
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
