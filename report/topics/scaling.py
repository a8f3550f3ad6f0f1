"""Error and cost against experts, slots and budget, with power laws if they fit."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter

from report.axes import log_ticks
from report.cells import require_asked, why_unmeasured
from report.conditions import Entry, System
from report.study import StudyData
from report.style import PAGE, panels, router_legend
from report.table import Cell, Column, Lacking, Row, captioned, number, text_columns, words
from report.topics.make import Contents, Sketch, as_figure, as_table
from results.conditions import Condition
from results.statistics.power_laws import LEAST_R_SQUARED, PowerLaw, power_law

SUITE = "scaling"


@dataclass(frozen=True)
class Axis:
    """A number that a study sweeps: its metric, its label, and the settings that change it."""

    metric: str
    label: str
    settings: tuple[str, ...]


AXES = (
    Axis("experts", "experts", ("experts.num_experts",)),
    Axis("slots", "slots of an image", ("router.capacity_factor", "router.num_slots")),
    Axis("training_flops", "training FLOPs", ("train.epochs",)),
)
RESPONSES = {
    "error": "error",
    "loss": "loss (nat)",
    "image_flops": "FLOPs of an image",
    "parameter_bytes": "bytes of weights",
    "step_ms": "ms of a step",
}
DRAWN = ("error", "loss")


@dataclass(frozen=True)
class Line:
    """Trials of a system that differ only along one axis and in their seeds.

    Attributes:
        rest: the rest of their condition, which they share.
        entries: the place of each entry on the axis, averaged over seeds, in order.
        values: each response by entry and seed.
    """

    system: System
    rest: Condition
    axis: Axis
    entries: dict[Entry, float]
    values: dict[str, dict[Entry, dict[int, float]]]

    def points(self, response: str) -> tuple[list[float], list[int], list[float]]:
        """Return the place on the axis, the seed and the value of each run."""
        runs = [
            (x, seed, value)
            for entry, x in self.entries.items()
            for seed, value in self.values[response].get(entry, {}).items()
        ]
        x, seeds, values = zip(*runs, strict=True) if runs else ((), (), ())
        return list(x), list(seeds), list(values)

    def law(self, study: StudyData, response: str) -> PowerLaw | str:
        """Return the fitted power law, or in words why none can be fitted."""
        try:
            return power_law(*self.points(response), confidence=study.confidence)
        except ValueError as error:
            return str(error)


def lines(study: StudyData) -> list[Line]:
    """Return what a study swept along each axis, all else equal, with at least two places.

    Raises:
        Lacking: the suite was not requested or measured nothing, or nothing was swept.
    """
    require_asked(study, SUITE)
    values = _values(study)
    if not values["error"]:
        raise Lacking(why_unmeasured(study, SUITE))
    made = list(_lines(study, values))
    if not made:
        raise Lacking("no sweep over experts, capacity or epochs: see preset scaling", fine=True)
    return made


def _values(study: StudyData) -> dict[str, dict[Entry, dict[int, float]]]:
    """Return the suite's numbers at the end of training, by metric, entry and seed."""
    rows = study.metrics
    rows = rows[(rows["suite"] == SUITE) & rows["step"].isna() & (rows["aa_replicate"] == 0)]
    values: dict[str, dict[Entry, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows.itertuples():
        values[row.metric][row.entry][int(row.seed)] = float(row.value)
    return values


def _lines(study: StudyData, values: dict[str, dict[Entry, dict[int, float]]]) -> Iterator[Line]:
    for axis in AXES:
        alike: dict[tuple[System, Condition], dict[Entry, float]] = defaultdict(dict)
        for entry in study.entries:
            own = values[axis.metric].get(entry)
            if own:
                rest = entry.condition.where(_other_than(axis))
                alike[entry.system, rest][entry] = fmean(own.values())
        for (system, rest), places in alike.items():
            ordered = dict(sorted(places.items(), key=lambda pair: pair[1]))
            if len(set(ordered.values())) > 1:
                yield Line(system, rest, axis, ordered, values)


def _other_than(axis: Axis) -> Callable[[str], bool]:
    return lambda path: path not in axis.settings


COLUMNS = (
    *text_columns("router", "condition", "against", of="number"),
    Column("exponent", "exponent", digits=3),
    Column("r_squared", "R²", digits=3),
    Column("lack_of_fit", "lack of fit", digits=3, p_value=True),
    Column("places", "places", digits=0),
    *text_columns(verdict="power law"),
)
CAPTION = captioned(
    "Trials that differ only along one axis. Exponent b of y = a · x^b, ± half of its 95 % "
    "Student t interval. A law holds for the range measured, and for no other.",
    "Fitted by least squares on log y with an offset for each seed. Lack of fit: p-value of "
    "the F test of the line against a free mean for each x; no power law fits if it is below 0.05, "
    f"or if R² is below {LEAST_R_SQUARED}. Places: values of x, of which "
    "three are needed. Time of a step: depends on what else the machine did.",
)


@as_table("power_laws", "Power laws", SUITE)
def table(study: StudyData) -> Contents:
    """Make a row for each router, axis and response."""
    rows = [
        _row(study, line, response)
        for line in lines(study)
        for response in RESPONSES
        if any(line.values[response].get(entry) for entry in line.entries)
    ]
    return CAPTION, COLUMNS, rows


def _row(study: StudyData, line: Line, response: str) -> Row:
    law = line.law(study, response)
    seeds = {entry: sorted(line.values[response].get(entry, {})) for entry in line.entries}
    trials = tuple(trial for entry, own in seeds.items() for trial in study.behind(entry, own))
    n = max(map(len, seeds.values()))
    head = (line.system.label, line.rest.label, line.axis.label, RESPONSES[response])
    places = number(len(line.entries), n, trials)
    first = next(iter(line.entries))
    if isinstance(law, str):
        cells = [words(""), words(""), words(""), places, words(law)]
    else:
        exponent = Cell(law.exponent, law.low, law.high, n, trials=trials)
        fit = [number(value, n, trials) for value in (law.r_squared, law.lack_of_fit)]
        cells = [exponent, *fit, places, words(law.against or "fits")]
    return Row((*map(words, head), *cells), n, first)


FIGURE_CAPTION = (
    "Test error and loss against experts, slots and training FLOPs, each with the other two fixed; "
    "both axes logarithmic. Marker: mean over the seeds; band: from the lowest to the highest one. "
    "Solid: the fitted power law; dashed: no power law fits, and the means are joined."
)


@as_figure("scaling", "Scaling with experts, slots and budget", SUITE)
def draw(study: StudyData) -> Sketch:
    """Draw a row of panels for each response, with a panel for each axis."""
    swept = lines(study)
    axes_of = [axis for axis in AXES if any(line.axis == axis for line in swept)]
    systems = [s for s in study.systems if any(line.system == s for line in swept)]
    height = 2.0 + 0.05 * len(systems)
    figure, drawn = panels(len(axes_of) * len(DRAWN), max(len(axes_of), 2), PAGE, height)
    for place, axes in enumerate(drawn):
        response, axis = DRAWN[place // len(axes_of)], axes_of[place % len(axes_of)]
        for line in swept:
            if line.axis == axis:
                _draw_line(axes, study, line, response)
        _scale(axes)
        axes.set_xlabel(axis.label)
        axes.set_ylabel(RESPONSES[response])
    router_legend(figure, {system: study.styles[system] for system in systems}, 3)
    return FIGURE_CAPTION, figure, dict.fromkeys(e for line in swept for e in line.entries)


def _draw_line(axes: Axes, study: StudyData, line: Line, response: str) -> None:
    x, _, values = line.points(response)
    places = np.unique(x)
    if not len(places) or min(values) <= 0:
        return
    style = study.styles[line.system]
    by_place = [[v for at, v in zip(x, values, strict=True) if at == place] for place in places]
    means = [fmean(own) for own in by_place]
    if max(map(len, by_place)) > 1:
        band = [min(own) for own in by_place], [max(own) for own in by_place]
        axes.fill_between(places, *band, color=style.colour, alpha=0.15, lw=0)
    law = line.law(study, response)
    if isinstance(law, PowerLaw) and not law.against:
        axes.plot(places, law.factor * places**law.exponent, color=style.colour, lw=1.1)
        axes.plot(places, means, **style.point, markersize=5, ls="")
    else:
        axes.plot(places, means, **style.line | {"linestyle": (0, (3, 2)), "markersize": 3.5})


def _scale(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for each, form in ((axes.xaxis, EngFormatter(sep=" ")), (axes.yaxis, "{x:g}")):
        log_ticks(each)
        each.set_major_formatter(form)
        each.set_minor_formatter(NullFormatter())
    axes.grid()
