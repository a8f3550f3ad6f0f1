"""The cost of routing: timings on each machine, and costs against the number of experts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from report.axes import label_systems, log_ticks
from report.conditions import Entry, System, fullest, without_number
from report.study import StudyData
from report.style import FAINT, INK, PAGE, PAPER, panels, router_legend, router_styles
from report.table import (
    DISTURBED,
    MISSING,
    NOTES,
    Cell,
    Column,
    Lacking,
    Row,
    captioned,
    file_name,
    text_columns,
    title,
    with_warning,
    words,
)
from report.timings import PASSES, Setting, Timing, of_entry, timings
from report.topics.make import Contents, Named, Sketch, as_named_figures, as_table
from results.conditions import Condition

CAPTION = captioned(
    "Each row is one layer or model with untrained weights on one machine (n = 1). Median and 90th "
    "percentile over the repeats; fwd: forward; train: forward and backward. Overhead: median time "
    "over that of the dense counterpart, with its 95 % bootstrap interval over the repeats.",
    "The counterpart is timed alternately with it in one process: for a layer, a dense MLP with "
    "the same expert FLOPs; for a model, the same model without MoE layers. Machines are never "
    "pooled. Others: cores that other processes kept busy meanwhile.",
)
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


UNTIMED = "no layer of this study was timed (suite throughput)"


@as_table("throughput", "Throughput", "throughput")
def table(study: StudyData) -> Contents:
    """Make a row for each timing."""
    rows = []
    for timing in timings(study):
        setting, entry = timing.setting, timing.entry
        head = [entry.label, entry.condition.label, setting.machine, setting.title, setting.sizes]
        numbers = [timing_cell(timing, column.key) for column in NUMBERS]
        rows.append(Row((*map(words, [*head, str(setting.threads)]), *numbers), 1, entry))
    if not rows:
        raise Lacking(UNTIMED)
    heads = text_columns("router", "condition", "machine", "what", "sizes", "threads")
    return CAPTION, (*heads, *NUMBERS), rows


def sentence(study: StudyData) -> str:
    """Return how many timings other processes disturbed, or "" if none were."""
    keys = [f"{name}_ms" for name in PASSES]
    made = [(timing, key) for timing in timings(study) for key in keys if key in timing.values]
    disturbed = sum(timing.is_disturbed(key) for timing, key in made)
    if not disturbed:
        return ""
    return (
        f"Of {len(made)} timings {disturbed} were taken while other processes kept the machine "
        f"busy ({DISTURBED}): compare them with care."
    )


def timing_cell(timing: Timing | None, key: str) -> Cell:
    """Show a number of a timing, with its interval if it has one."""
    if timing is None or key not in timing.values:
        return words(MISSING)
    value = timing.values[key]
    ends = timing.values.get(f"{key}_low"), timing.values.get(f"{key}_high")
    marks = (DISTURBED,) if timing.is_disturbed(key) else ()
    return Cell(
        value, *ends, n=1, marks=marks, bracketed=True, trials=(timing.layer,), values=(value,)
    )


def _noted(caption: str, is_disturbed: bool) -> str:
    """Add the note on disturbed timings to a caption."""
    return with_warning(caption, NOTES[DISTURBED].format(DISTURBED)) if is_disturbed else caption


ALPHAS = (1.0, 0.45)
OVERHEAD, OVERHEAD_TITLE = "overhead", "Overhead by router"
OVERHEAD_CAPTION = captioned(
    "Median time over that of the dense counterpart; 1 is no overhead. Upper bar of each pair: "
    "forward; lower, pale one: forward and backward; error bar: 95 % bootstrap interval over the "
    "repeats. One layer or model each (n = 1), on {machine}.",
    "The counterpart is timed alternately with it: for a layer, a dense MLP with the same expert "
    "FLOPs; for a model, the one without MoE layers.",
)


@as_named_figures(OVERHEAD, OVERHEAD_TITLE, "throughput")
def draw(study: StudyData) -> Iterator[Named]:
    """Draw one figure for each machine and condition, with a panel for each setting.

    Conditions that differ only in the number of experts share one, since panels name that number.
    """
    timed = [t for t in timings(study) if any(f"{name}_overhead" in t.values for name in PASSES)]
    if not timed:
        raise Lacking(UNTIMED)
    machines = list(dict.fromkeys(timing.setting.machine for timing in timed))
    for machine in machines:
        here = [timing for timing in timed if timing.setting.machine == machine]
        conditions: dict[Condition, list[Condition]] = defaultdict(list)
        for condition in fullest(timing.entry for timing in here):
            conditions[without_number(condition)].append(condition)
        for shared, alike in conditions.items():
            place = " ".join(filter(None, (machine if len(machines) > 1 else "", shared.label)))
            sketch = partial(_overheads, study, machine, _under(study, here, alike))
            yield file_name(OVERHEAD, place), title(OVERHEAD_TITLE, place), sketch


def _under(study: StudyData, timed: list[Timing], conditions: list[Condition]) -> list[Timing]:
    """Return the timings that belong to any of the conditions, each once."""
    settings = list(dict.fromkeys(timing.setting for timing in timed))
    asked = {
        (setting, timing.entry): timing
        for setting in settings
        for condition in conditions
        for system in study.systems
        if (timing := of_entry(timed, setting, Entry(system, condition))) is not None
    }
    return list(asked.values())


def _overheads(study: StudyData, machine: str, timed: list[Timing]) -> Sketch:
    settings = list(dict.fromkeys(timing.setting for timing in timed))
    shown = {timing.entry.system for timing in timed}
    systems = [system for system in study.systems if system in shown]
    figure, axes = panels(len(settings), 3, PAGE, 1.0 + 0.24 * len(systems), sharey=True)
    for setting, place in zip(settings, axes, strict=True):
        _panel(place, study, [t for t in timed if t.setting == setting], systems)
        place.set_title(f"{setting.title}\n{setting.sizes}")
    handles = [
        Patch(facecolor=INK, alpha=alpha, label=label)
        for label, alpha in zip(PASSES.values(), ALPHAS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    disturbed = any(t.is_disturbed(f"{name}_overhead") for t in timed for name in PASSES)
    caption = _noted(OVERHEAD_CAPTION.format(machine=machine), disturbed)
    return caption, figure, dict.fromkeys(timing.entry for timing in timed)


def _panel(axes: Axes, study: StudyData, timed: list[Timing], systems: list[System]) -> None:
    axes.axvline(1, color=FAINT, lw=0.8, zorder=0)
    for timing in timed:
        style, place = study.styles[timing.entry.system], systems.index(timing.entry.system)
        for name, offset, alpha in zip(PASSES, (-0.19, 0.19), ALPHAS, strict=True):
            value = timing.values.get(f"{name}_overhead")
            if value is None:
                continue
            low = timing.values.get(f"{name}_overhead_low", value)
            high = timing.values.get(f"{name}_overhead_high", value)
            fill: dict[str, Any] = {"color": style.colour, "hatch": style.hatch, "alpha": alpha}
            axes.barh(place + offset, value, 0.36, **fill, edgecolor=PAPER, linewidth=0)
            axes.plot([low, high], [place + offset] * 2, color=INK, lw=0.9)
            mark = DISTURBED if timing.is_disturbed(f"{name}_overhead") else ""
            end = (max(value, high), place + offset)
            _annotate(axes, f"{value:.2f}{mark}", end, (2, 0), va="center")
    label_systems(axes, systems)
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("time / dense time")


def _annotate(axes: Axes, text: str, end: tuple[float, float], by: Any, **align: Any) -> None:
    axes.annotate(text, end, by, textcoords="offset points", fontsize=7, **align)


SCALING, SCALING_TITLE = "scaling_experts", "Cost by number of experts"
SCALING_CAPTION = (
    "Median time of a forward pass, and of a forward and backward pass, of a layer; and the bytes "
    "of its weights and of what a training pass keeps for its backward pass, input included. "
    "Inputs of {sizes}, a hidden width of {hidden}. One layer each (n = 1), on {machine}."
)
PANELS = (
    ("forward", ("forward_ms",), "s"),
    ("forward + backward", ("train_ms",), "s"),
    ("weights + kept for backward", ("parameter_bytes", "kept_bytes"), "B"),
)
"""The heading of each panel, the metrics that are summed in it, and their unit."""
Points = dict[int, Timing]
"""The timing of a layer by its number of experts."""


@as_named_figures(SCALING, SCALING_TITLE, "throughput")
def draw_scaling(study: StudyData) -> Iterator[Named]:
    """Draw one figure for each machine and input size."""
    by_setting: dict[Setting, dict[Entry, Points]] = defaultdict(lambda: defaultdict(dict))
    for timing in timings(study):
        if timing.setting.scope == "layer":
            alike = replace(timing.setting, shape="", num_experts=0)
            by_setting[alike][_line_of(timing)][timing.setting.num_experts] = timing
    scaled = {}
    for setting, by_entry in by_setting.items():
        if lines := {entry: points for entry, points in by_entry.items() if len(points) > 1}:
            scaled[setting] = lines
    if not scaled:
        why = "no layer was timed with several numbers of experts (suite throughput)"
        raise Lacking(why, fine=True)
    for setting, lines in scaled.items():
        place = f"{setting.machine} {_sizes(setting)}" if len(scaled) > 1 else ""
        sketch = partial(_scaling, study, setting, lines)
        yield file_name(SCALING, place), title(SCALING_TITLE, place), sketch


def _sizes(setting: Setting) -> str:
    return f"{setting.batch} × {setting.tokens} × {setting.dim}"


def _line_of(timing: Timing) -> Entry:
    """Return the system and condition of a timing, without the number of experts."""
    return replace(timing.entry, condition=without_number(timing.entry.condition))


def _is_disturbed(timing: Timing, names: Iterable[str]) -> bool:
    return any(timing.is_disturbed(name) for name in names)


def _scaling(study: StudyData, setting: Setting, lines: dict[Entry, Points]) -> Sketch:
    labels = {entry: f"{entry.system} {entry.condition}".strip() for entry in lines}
    styles = router_styles(labels.values())
    numbers = sorted({number for points in lines.values() for number in points})
    figure, panes = panels(3, 3, PAGE, 2.2 + 0.15 * len(lines))
    for axes, (heading, names, unit) in zip(panes, PANELS, strict=True):
        scale = 1e-3 if unit == "s" else 1.0
        for entry, points in lines.items():
            known = {
                number: scale * sum(timing.values[name] for name in names)
                for number, timing in sorted(points.items())
                if timing.values.keys() >= set(names)
            }
            axes.plot(list(known), list(known.values()), **styles[labels[entry]].line)
            for number, value in known.items():
                if _is_disturbed(points[number], names):
                    _annotate(axes, DISTURBED, (number, value), (2, 2))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(numbers))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:.0f}")
        log_ticks(axes.yaxis)
        axes.yaxis.set_major_formatter(EngFormatter(unit, sep=" "))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("experts")
        axes.grid()
        axes.set_title(heading)
    router_legend(figure, styles, 1)
    drawn = [timing for points in lines.values() for timing in points.values()]
    disturbed = any(_is_disturbed(timing, names) for timing in drawn for _, names, _ in PANELS)
    caption = SCALING_CAPTION.format(
        sizes=_sizes(setting), hidden=setting.hidden, machine=setting.machine
    )
    entries = dict.fromkeys(t.entry for t in timings(study) if _line_of(t) in lines)
    return _noted(caption, disturbed), figure, entries
