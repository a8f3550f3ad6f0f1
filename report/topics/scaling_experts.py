"""What more experts cost: time and memory of a layer against their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator

from report.conditions import without_number
from report.study import StudyData
from report.style import PAGE, Drawing, RouterStyle, panels, router_legend, router_styles, style
from report.table import DISTURBED, NOTES, Absent, file_name, title
from report.timings import Setting, Timing, timings

FIGURE, FIGURE_TITLE = "scaling_experts", "Cost by number of experts"
FIGURE_CAPTION = (
    "Median time of a forward pass, and of a forward and backward pass, of a layer; and the bytes "
    "of its weights and of what a training pass keeps for its backward pass, its input too. Inputs "
    "of {sizes}, a hidden width of {hidden}. One layer each (n = 1), on {machine}."
)
PANELS = (
    ("forward", ("forward_ms",), "s"),
    ("forward + backward", ("train_ms",), "s"),
    ("weights + kept for backward", ("parameter_bytes", "kept_bytes"), "B"),
)
"""By heading: what is added up, and its unit."""
Points = dict[int, Timing]
"""The timing of a layer by its number of experts."""


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each machine and size of the inputs."""
    by_setting: dict[Setting, dict[str, Points]] = defaultdict(lambda: defaultdict(dict))
    for timing in timings(study):
        if timing.setting.scope == "layer":
            alike = replace(timing.setting, shape="", num_experts=0)
            by_setting[alike][system(timing)][timing.setting.num_experts] = timing
    scaled = {setting: lines for setting, by in by_setting.items() if (lines := _several(by))}
    if not scaled:
        why = "no layer was timed with several numbers of experts (suite throughput)"
        yield Absent(FIGURE, FIGURE_TITLE, why, fine=True)
    for setting, lines in scaled.items():
        sizes = f"{setting.batch} × {setting.tokens} × {setting.dim}"
        place = " ".join([setting.machine, sizes]) if len(scaled) > 1 else ""
        yield Drawing(
            file_name(FIGURE, place),
            title(FIGURE_TITLE, place),
            _caption(setting, sizes, lines),
            _figure(lines),
            tuple(dict.fromkeys(t.entry for t in timings(study) if system(t) in lines)),
        )


def system(timing: Timing) -> str:
    """Router and condition, but for the number of experts."""
    return f"{timing.entry.router} {without_number(timing.entry.condition)}".strip()


def _several(by_system: dict[str, Points]) -> dict[str, Points]:
    """Return those timed with more than one number of experts."""
    return {name: points for name, points in by_system.items() if len(points) > 1}


def _caption(setting: Setting, sizes: str, lines: dict[str, Points]) -> str:
    caption = FIGURE_CAPTION.format(sizes=sizes, hidden=setting.hidden, machine=setting.machine)
    drawn = [timing for points in lines.values() for timing in points.values()]
    disturbed = any(_is_disturbed(timing, names) for timing in drawn for _, names, _ in PANELS)
    return f"{caption} {NOTES[DISTURBED].format(DISTURBED)}" if disturbed else caption


def _figure(lines: dict[str, Points]) -> Figure:
    drawn = router_styles(lines)
    with style():
        figure, axes = panels(3, 3, PAGE, 2.2 + 0.15 * len(lines))
        for place, (heading, names, unit) in zip(axes, PANELS, strict=True):
            for name, points in lines.items():
                _line(place, points, names, drawn[name], 1e-3 if unit == "s" else 1.0)
            _finish(place, lines, unit)
            place.set_title(heading)
        router_legend(figure, drawn, 1)
    return figure


def _line(
    axes: Axes, points: Points, names: tuple[str, ...], style: RouterStyle, scale: float
) -> None:
    known = {
        number: scale * sum(timing.values[name] for name in names)
        for number, timing in sorted(points.items())
        if timing.values.keys() >= set(names)
    }
    axes.plot(
        list(known),
        list(known.values()),
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
    )
    for number, value in known.items():
        if _is_disturbed(points[number], names):
            axes.annotate(
                DISTURBED, (number, value), (2, 2), textcoords="offset points", fontsize=7
            )


def _is_disturbed(timing: Timing, names: tuple[str, ...]) -> bool:
    return any(timing.is_disturbed(name) for name in names)


def _finish(axes: Axes, lines: dict[str, Points], unit: str) -> None:
    numbers = sorted({number for points in lines.values() for number in points})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(unit, sep=" "))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("experts")
    axes.grid()
