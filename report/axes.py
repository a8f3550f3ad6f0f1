"""What is left out of an axis, and named at its edge: nulls that lie far off.

A dense model with every expert's parameters, say, gets so few steps from the budget that on an axis
that holds it all routers are one point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes

from report.conditions import DENSE, Entry
from report.study import StudyData
from report.style import FAINT, PAPER
from results.statistics import Interval

LEAST = 5.0
"""Points beyond which a null is far, at least."""


def far_nulls(study: StudyData, values: Mapping[Entry, Sequence[float]]) -> dict[Entry, bool]:
    """Find the nulls that lie far off, and whether each is above the rest, else below.

    Far: each of its values is beyond those of the routers and of dense, by half of their range.

    Args:
        values: of each entry, whatever an axis shows of it, in %.
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
    """Name the nulls that a y axis leaves out, with their means in %, in its lower right."""
    if not far:
        return
    told = [
        f"{entry.system} {'above' if above else 'below'}: {means[entry]:.1f} %"
        for entry, above in far.items()
    ]
    axes.text(
        0.98,
        0.04,
        "\n".join(sorted(told)),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=7,
        color=FAINT,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
    )


CUT = "Triangle: the interval goes on beyond the axis."


def limits(
    values: Sequence[float], intervals: Iterable[Interval], bounds: tuple[float, float]
) -> tuple[float, float]:
    """Return the ends of an axis of percent that holds all values, and intervals for the most part.

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
    """Find how far the interval goes below and above its mean within an axis; None without one."""
    if interval.low is None or interval.high is None:
        return None
    low, high = max(interval.low, ends[0]), min(interval.high, ends[1])
    return [[interval.mean - low], [high - interval.mean]]


def is_cut(interval: Interval, ends: tuple[float, float]) -> bool:
    """Tell whether an interval goes beyond an axis."""
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
    """Draw a triangle at each end of an axis that an interval goes beyond.

    Args:
        beside: the place of the mean on the other axis.
        upright: along the y axis, not the x axis.
    """
    for end, marker in _beyond(interval, ends).items():
        place = (beside, end) if upright else (end, beside)
        shape = {"<": "v", ">": "^"}[marker] if upright else marker
        axes.plot(*place, marker=shape, markersize=3.5, mew=0, color=colour, clip_on=False)


def _beyond(interval: Interval, ends: tuple[float, float]) -> dict[float, str]:
    """Return the ends that an interval goes beyond."""
    if interval.low is None or interval.high is None:
        return {}
    left = {ends[0]: "<"} if interval.low < ends[0] else {}
    right = {ends[1]: ">"} if interval.high > ends[1] else {}
    return left | right
