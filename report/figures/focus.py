"""What is left out of an axis, and named at its edge: nulls that lie far off.

A dense model with every expert's parameters, say, gets so few steps from the budget that on an axis
that holds it all routers are one point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from report.entries import Entry
from report.figures.canvas import FAINT, PAPER
from report.study import StudyData
from report.systems import DENSE

LEAST = 5.0
"""Points beyond which a null is far, at least."""


def far_nulls(study: StudyData, values: Mapping[Entry, Sequence[float]]) -> dict[Entry, bool]:
    """Whether each far null lies above the rest, else below.

    Far: each of its values is beyond those of the routers and of dense, by half of their range.

    Args:
        values: of each entry, whatever an axis shows of it, in %.
    """
    nulls = {e for e in values if study.is_baseline(e.router) and e.router != DENSE}
    others = [value for entry, each in values.items() if entry not in nulls for value in each]
    if not others:
        return {}
    low, high = min(others), max(others)
    room = max((high - low) / 2, LEAST)
    found = {entry: values[entry] for entry in nulls if len(values[entry])}
    below = {entry: False for entry, each in found.items() if max(each) < low - room}
    return below | {entry: True for entry, each in found.items() if min(each) > high + room}


def name_far(axes: Axes, far: Mapping[Entry, bool], means: Mapping[Entry, float]) -> None:
    """Name the nulls that a y axis leaves out, with their means in %, in its lower right."""
    if not far:
        return
    told = [
        f"{entry.router} {'above' if above else 'below'}: {means[entry]:.1f} %"
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
