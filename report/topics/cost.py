"""Timings: a row for each router on each machine at each setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from report.conditions import Entry, fullest, without_number
from report.study import StudyData
from report.style import FAINT, INK, PAGE, PAPER, Drawing, label_routers, panels, style
from report.table import (
    DISTURBED,
    MISSING,
    NOTES,
    Absent,
    Cell,
    Column,
    Row,
    Table,
    assemble,
    file_name,
    title,
    words,
)
from report.timings import PASSES, Timing, of_entry, timings
from results.conditions import Condition

NAME, TITLE = "throughput", "Throughput"
CAPTION = (
    "Each row is one layer or model with untrained weights on one machine (n = 1); machines are "
    "never pooled. Median and 90th percentile over the repeats. Overhead: median time over that of "
    "the dense counterpart, timed in turn with it in one process (of a layer: a dense MLP that "
    "runs the same expert FLOPs; of a model: the same model without MoE layers), with its 95 % "
    "bootstrap interval over the repeats. fwd: forward; train: forward and backward. Others: cores "
    "that other processes kept busy meanwhile."
)
WORDS = ("router", "condition", "machine", "what", "sizes", "threads")
NUMBERS = (
    Column("forward_ms", "fwd median", "ms", "lower"),
    Column("forward_ms_p90", "fwd p90", "ms", "lower"),
    Column("forward_overhead", "fwd overhead", "×", "lower"),
    Column("train_ms", "train median", "ms", "lower"),
    Column("train_ms_p90", "train p90", "ms", "lower"),
    Column("train_overhead", "train overhead", "×", "lower"),
    Column("images_per_s", "images", "/s", "higher", si=True),
    Column("tokens_per_s", "tokens", "/s", "higher", si=True),
    Column("peak_memory_bytes", "peak memory", "B", "lower", si=True),
    Column("router_forward_ms", "router fwd", "ms", "lower"),
    Column("forward_repeats", "fwd repeats", digits=0),
    Column("train_repeats", "train repeats", digits=0),
    Column("other_load", "fwd others", "cores", "lower"),
    Column("train_other_load", "train others", "cores", "lower"),
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each timing."""
    timed = timings(study)
    if not timed:
        return Absent(NAME, TITLE, "no layer of this study was timed (suite throughput)")
    columns = [Column(name, name, words=True) for name in WORDS]
    rows = [_row(timing) for timing in timed]
    return assemble(NAME, TITLE, CAPTION, [*columns, *NUMBERS], rows)


def sentence(study: StudyData) -> str:
    """Say how many timings other processes disturbed; "" where they disturbed none."""
    keys = [f"{name}_ms" for name in PASSES]
    made = [(timing, key) for timing in timings(study) for key in keys if key in timing.values]
    disturbed = sum(timing.is_disturbed(key) for timing, key in made)
    if not disturbed:
        return ""
    return (
        f"Of {len(made)} timings {disturbed} were taken while other processes kept the machine "
        f"busy ({DISTURBED}): compare them with care."
    )


def _row(timing: Timing) -> Row:
    setting, entry = timing.setting, timing.entry
    head = [entry.router, entry.condition.label, setting.machine, setting.title, setting.sizes]
    cells = [words(text) for text in (*head, str(setting.threads))]
    cells += [number(timing, column.key) for column in NUMBERS]
    return Row(tuple(cells), 1, entry)


def number(timing: Timing | None, key: str) -> Cell:
    """Show a number of a timing with its interval, where it has one."""
    if timing is None or key not in timing.values:
        return words(MISSING)
    value = timing.values[key]
    ends = timing.values.get(f"{key}_low"), timing.values.get(f"{key}_high")
    marks = (DISTURBED,) if timing.is_disturbed(key) else ()
    return Cell(
        value, *ends, n=1, marks=marks, bracketed=True, trials=(timing.layer,), values=(value,)
    )


FIGURE, FIGURE_TITLE = "overhead", "Overhead by router"
ALPHAS = (1.0, 0.45)
FIGURE_CAPTION = (
    "Median time over the median time of the dense counterpart, timed in turn with it (of a layer: "
    "a dense MLP that runs the same expert FLOPs; of a model: the one without MoE layers); 1 is no "
    "overhead. Upper bar of each pair: forward; lower, pale one: forward and backward. Error bar: "
    "95 % bootstrap interval over the repeats. One layer or model each (n = 1), on {machine}."
)


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each machine and condition, a panel for each setting.

    Conditions that differ in the number of experts alone share one: panels tell that number.
    """
    timed = [t for t in timings(study) if any(f"{name}_overhead" in t.values for name in PASSES)]
    if not timed:
        yield Absent(FIGURE, FIGURE_TITLE, "no layer of this study was timed (suite throughput)")
    machines = list(dict.fromkeys(timing.setting.machine for timing in timed))
    for machine in machines:
        here = [timing for timing in timed if timing.setting.machine == machine]
        conditions: dict[Condition, list[Condition]] = defaultdict(list)
        for condition in fullest(timing.entry for timing in here):
            conditions[without_number(condition)].append(condition)
        for shared, alike in conditions.items():
            place = " ".join(filter(None, (machine if len(machines) > 1 else "", shared.label)))
            drawn = _under(study, here, alike)
            yield Drawing(
                file_name(FIGURE, place),
                title(FIGURE_TITLE, place),
                _caption(machine, drawn),
                _figure(study, drawn),
                tuple(dict.fromkeys(timing.entry for timing in drawn)),
            )


def _under(study: StudyData, timed: list[Timing], conditions: list[Condition]) -> list[Timing]:
    """Return the timings that belong to any of the conditions, each once."""
    settings = list(dict.fromkeys(timing.setting for timing in timed))
    asked = {
        (setting, timing.entry): timing
        for setting in settings
        for condition in conditions
        for router in study.routers
        if (timing := of_entry(timed, setting, Entry(router, condition))) is not None
    }
    return list(asked.values())


def _caption(machine: str, drawn: list[Timing]) -> str:
    caption = FIGURE_CAPTION.format(machine=machine)
    disturbed = any(t.is_disturbed(f"{name}_overhead") for t in drawn for name in PASSES)
    return f"{caption} {NOTES[DISTURBED].format(DISTURBED)}" if disturbed else caption


def _figure(study: StudyData, timed: list[Timing]) -> Figure:
    settings = list(dict.fromkeys(timing.setting for timing in timed))
    names = {timing.entry.router for timing in timed}
    routers = [name for name in study.routers if name in names]
    with style():
        figure, axes = panels(len(settings), 3, PAGE, 1.0 + 0.24 * len(routers), sharey=True)
        for setting, place in zip(settings, axes, strict=True):
            _panel(place, study, [t for t in timed if t.setting == setting], routers)
            place.set_title(f"{setting.title}\n{setting.sizes}")
        handles = [
            Patch(facecolor=INK, alpha=alpha, label=label)
            for label, alpha in zip(PASSES.values(), ALPHAS, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


def _panel(axes: Axes, study: StudyData, timed: list[Timing], routers: list[str]) -> None:
    axes.axvline(1, color=FAINT, lw=0.8, zorder=0)
    for timing in timed:
        style, place = study.styles[timing.entry.router], routers.index(timing.entry.router)
        for name, offset, alpha in zip(PASSES, (-0.19, 0.19), ALPHAS, strict=True):
            value = timing.values.get(f"{name}_overhead")
            if value is None:
                continue
            low = timing.values.get(f"{name}_overhead_low", value)
            high = timing.values.get(f"{name}_overhead_high", value)
            axes.barh(
                place + offset,
                value,
                0.36,
                color=style.colour,
                alpha=alpha,
                hatch=style.hatch,
                edgecolor=PAPER,
                linewidth=0,
            )
            axes.plot([low, high], [place + offset] * 2, color=INK, lw=0.9)
            mark = DISTURBED if timing.is_disturbed(f"{name}_overhead") else ""
            axes.annotate(
                f"{value:.2f}{mark}",
                (max(value, high), place + offset),
                (2, 0),
                va="center",
                textcoords="offset points",
                fontsize=7,
            )
    label_routers(axes, routers)
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("time / dense time")
