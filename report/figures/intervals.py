"""Intervals on an axis that shows the means: cut where they go far beyond, and marked there.

An interval of two seeds is thirteen times as wide as their standard error: an axis that held it
would show accuracies below 0 and above 100 %, and the means as one point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

from report.figures.focus import LEAST
from results.statistics.intervals import Interval

CUT = "Triangle: the interval goes on beyond the axis."


def limits(
    values: Sequence[float], intervals: Iterable[Interval], bounds: tuple[float, float]
) -> tuple[float, float]:
    """The ends of an axis of percent that holds all values, and intervals for the most part.

    Args:
        values: of the seeds.
        bounds: of what is possible.
    """
    lowest, highest = min(values), max(values)
    room = max((highest - lowest) / 2, LEAST)
    ends = [(i.low, i.high) for i in intervals if i.low is not None and i.high is not None]
    low = max(lowest - room, min([lowest, *(low for low, _ in ends)]))
    high = min(highest + room, max([highest, *(high for _, high in ends)]))
    margin = max(0.04 * (high - low), 0.5)
    return max(low - margin, bounds[0]), min(high + margin, bounds[1])


def halves(interval: Interval, ends: tuple[float, float]) -> list[list[float]] | None:
    """How far the interval goes below and above its mean within an axis; None without one."""
    if interval.low is None or interval.high is None:
        return None
    low, high = max(interval.low, ends[0]), min(interval.high, ends[1])
    return [[interval.mean - low], [high - interval.mean]]


def is_cut(interval: Interval, ends: tuple[float, float]) -> bool:
    """Whether an interval goes beyond an axis."""
    return bool(_beyond(interval, ends))


def mark_cut(
    axes: Axes,
    interval: Interval,
    ends: tuple[float, float],
    beside: float,
    colour: str,
    *,
    upright: bool = False,
) -> None:
    """A triangle at each end of an axis that an interval goes beyond.

    Args:
        beside: the place of the mean on the other axis.
        upright: along the y axis, not the x axis.
    """
    for end, marker in _beyond(interval, ends).items():
        place = (beside, end) if upright else (end, beside)
        shape = {"<": "v", ">": "^"}[marker] if upright else marker
        axes.plot(*place, marker=shape, markersize=3.5, mew=0, color=colour, clip_on=False)


def _beyond(interval: Interval, ends: tuple[float, float]) -> dict[float, str]:
    """The ends that an interval goes beyond."""
    if interval.low is None or interval.high is None:
        return {}
    left = {ends[0]: "<"} if interval.low < ends[0] else {}
    right = {ends[1]: ">"} if interval.high > ends[1] else {}
    return left | right
