"""Accuracy: the main table, test accuracy, and validation accuracy during training."""

from collections.abc import Iterable
from dataclasses import replace
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from report import undertrained
from report.axes import (
    CUT,
    beyond,
    draw_line,
    far_nulls,
    halves,
    label_systems,
    limits,
    mark_cut,
    name_far,
    over_seeds,
)
from report.cells import (
    INTERVALS,
    LEAD,
    measured,
    metric_cell,
    metric_row,
    sentence_on_analyses,
    stands_under,
    why_without,
)
from report.comparisons import against_nulls, nulls
from report.conditions import DENSE, Entry, System
from report.marks import OTHERS
from report.study import StudyData
from report.style import COLUMN, FAINT, PAGE, panels, router_legend
from report.table import Column, Lacking, captioned, number_of_runs
from report.timings import of_entry, representative, timings
from report.topics import compute, generic, routing, transfer, tuning
from report.topics.cost import timing_cell
from report.topics.differences import null_caption, null_cells
from report.topics.make import Contents, Sketch, as_figure, as_figures, as_table
from results.conditions import Condition
from results.statistics.means import mean_interval

ACCURACY = (
    Column("top1", "top-1", "%", "higher", 100, 1, ranked=True),
    Column("top5", "top-5", "%", "higher", 100, 1, ranked=True),
    Column("nll", "NLL", "nat", "lower", digits=3, ranked=True),
    Column("ece", "ECE", "%", "lower", 100, 1, ranked=True),
)
COST = tuple(
    c for c in compute.COLUMNS if c.key in ("train_flops", "params_total", "params_active")
)
OVERHEAD = Column("forward_overhead", "overhead", "×", "lower", n=1)
BALANCE = tuple(c for c in routing.BALANCE if c.key in ("load_cv", "dropped", "uncovered"))
ENTROPY = (
    ("H_s", "gates", Column("H_s", "H_s", "bit")),
    ("H_u", "gates", Column("H_u", "H_u", "bit")),
    ("MI_label_corrected", "combine", Column("MI", "I(E;Y)", "bit")),
)


@as_table(
    "main", "Routers at equal budgets", *("accuracy", "throughput", "balance", "entropy", OTHERS)
)
def table(study: StudyData) -> Contents:
    """Make a row for each router under each condition."""
    if not study.entries:
        raise Lacking("the study has no trials; bare layers alone have no accuracy")
    timed = timings(study)
    setting = representative(timed)
    compared, under = against_nulls(study), stands_under(study)
    few = transfer.columns(study)
    others = [each for each in generic.headlines(study) if each[0].key != transfer.GENERIC]
    # Few-shot accuracy goes next to top-1.
    reached = (ACCURACY[0], *few, *ACCURACY[1:])
    rows = []
    for entry in study.entries:
        overhead = timing_cell(of_entry(timed, setting, entry), OVERHEAD.key)
        cells = [
            *(metric_cell(study, column.key, entry) for column in reached),
            *null_cells(study, compared, entry),
            *(metric_cell(study, column.key, entry) for column in COST),
            replace(overhead, low=None, high=None),
            *(metric_cell(study, column.key, entry) for column in BALANCE),
            *(metric_cell(study, name, entry, of=of, kind="soft") for name, of, _ in ENTROPY),
            *(cell(entry) for _, cell, _ in others),
        ]
        rows.append(metric_row(study, entry, cells, n=study.finished(entry), under=under[entry]))
    over_nulls = [
        Column(f"over_{null.key}", f"over {null}", "points", scale=100) for null in nulls(study)
    ]
    columns = [*LEAD, *reached, *over_nulls, *COST, OVERHEAD, *BALANCE]
    columns += [*(column for *_, column in ENTROPY), *(column for column, *_ in others)]
    summary = (compute.what_is_matched(study), "Accuracy on the test split.", INTERVALS)
    details = [
        transfer.sentence(few),
        sentence_on_analyses(study),
        null_caption(study),
        undertrained.sentence(study),
        tuning.sentence(study),
        "Training: FLOPs spent.",
        "Load CV, dropped (token choices lost to capacity), uncovered (tokens that no expert "
        "processed): means over the MoE layers."
        if measured(study, "balance")
        else "",
        "H_s and H_u (of the gates), I(E;Y) (of the combine weights and the class, "
        "bias-corrected): means over the MoE layers."
        if measured(study, "entropy")
        else "",
        "Overhead: median forward time over that of a dense MLP of the same expert FLOPs, "
        f"{setting.title} ({setting.sizes}) on {setting.machine}."
        if setting
        else "",
        f"Routers are named with their experts, except the usual ones ({study.usual_experts})."
        if study.usual_experts
        else "",
        *(sentence for *_, sentence in others),
    ]
    return captioned(" ".join(filter(None, summary)), *details), columns, rows


CAPTION = (
    "Top-1 accuracy on the test split. Large marker: mean over the n seeds; bar: 95 % Student t "
    "interval of that mean (none where n = 1); small dots: the seeds. Dashed line: mean of dense, "
    "the model without MoE layers."
)
COLUMNS = 2
ARROW = "Arrow: a null beyond the axis, with its mean ± half of its interval."


@as_figure("accuracy", "Test accuracy by router", "accuracy")
def draw(study: StudyData) -> Sketch:
    """Draw one figure with a panel for each condition."""
    values = {e: list(100 * study.final("top1", e)) for e in study.entries}
    if not any(values.values()):
        raise Lacking(why_without(study, "accuracy", "a test accuracy"))
    conditions = study.conditions
    single = len(conditions) == 1
    systems = [s for s in study.systems if any(e.system == s for e in study.entries)]
    height = 0.5 + (0.27 if single else 0.25) * len(systems)
    width = COLUMN if single else PAGE
    figure, axes = panels(len(conditions), COLUMNS, width, height, sharey=True, sharex=True)
    far = far_nulls(study, values)
    near = {e: own for e, own in values.items() if own and e not in far}
    intervals = [mean_interval(own, study.confidence) for own in near.values()]
    ends = limits([v for own in near.values() for v in own], intervals)
    for condition, place in zip(conditions, axes, strict=True):
        place.set_title(fill(condition.label, 44, break_long_words=False))
        for row, system in enumerate(systems):
            entry = study.entry(system, condition)
            own = values[entry] if entry else []
            _draw_router(place, study, system, own, row, far.get(entry) if entry else None, ends)
        label_systems(place, systems)
    for lowest in axes[-COLUMNS:]:
        lowest.set_xlabel("top-1 accuracy (%)")
    axes[0].set_xlim(*ends)
    cut = CUT if any(beyond(interval, ends) for interval in intervals) else ""
    details = (cut, ARROW if far else "", sentence_on_analyses(study))
    return captioned(CAPTION, *details), figure, study.entries


def _draw_router(
    axes: Axes,
    study: StudyData,
    system: System,
    values: list[float],
    row: int,
    is_above: bool | None,
    ends: tuple[float, float],
) -> None:
    """Draw a row; `is_above`: on which side its values lie off the axis, None if they are on it."""
    blended = axes.get_yaxis_transform()
    note: dict[str, Any] = {"va": "center", "fontsize": 7, "color": FAINT}
    if not values:
        axes.text(0.5, row, "no finished trial", transform=blended, ha="center", **note)
        return
    style, interval = study.styles[system], mean_interval(values, study.confidence)
    axes.annotate(f"n={interval.n}", (1.02, row), xycoords=blended, **note)
    if is_above is not None:
        half = "" if interval.low is None else f" ± {interval.mean - interval.low:.1f}"
        number = f"{interval.mean:.1f}{half}"
        text, place, align = (
            (f"{number} ▸", 0.98, "right") if is_above else (f"◂ {number}", 0.02, "left")
        )
        axes.annotate(text, (place, row), xycoords=blended, ha=align, **note)
        return
    if system.router == DENSE:
        axes.axvline(interval.mean, color=FAINT, lw=0.8, ls=(0, (4, 2)), zorder=0)
    if interval.n > 1:
        level = [row + 0.27] * len(values)
        axes.scatter(values, level, s=5, color=style.colour, lw=0, clip_on=False)
    drawn: dict[str, Any] = style.point | {"markersize": 5.5, "elinewidth": 1.3, "clip_on": False}
    axes.errorbar([interval.mean], [row], xerr=halves(interval, ends), **drawn)
    mark_cut(axes, interval, ends, row, style.colour)


TRAINING_CAPTION = (
    "Top-1 accuracy on the validation split against the training FLOPs spent so far{right}. "
    "Line: mean over the seeds ({counts}); band: from the "
    "lowest to the highest seed (none where n = 1)."
)
RIGHT = "; right: the second half of training, enlarged"


@as_figures("training", "Accuracy along training", "accuracy")
def draw_training(study: StudyData, condition: Condition) -> Sketch:
    """Draw validation accuracy against the FLOPs spent."""
    curves = {entry: curve(study, entry) for entry in study.under(condition)}
    curves = {entry: points for entry, points in curves.items() if not points.empty}
    if not curves:
        raise Lacking("no trial was evaluated along the way (suite accuracy)")
    far = far_nulls(study, {e: list(points["mean"]) for e, points in curves.items()})
    ends = {entry: points["mean"].iloc[-1] for entry, points in curves.items()}
    shown = {entry: points for entry, points in curves.items() if entry not in far}
    enlarged = max(len(_second_half(points)) for points in shown.values()) > 2
    figure, drawn = panels(1 + enlarged, 2, PAGE, 2.1 + 0.05 * len(curves))
    for axes in drawn:
        for entry, points in shown.items():
            draw_line(axes, study.styles[entry.system], points, "flops")
        axes.set_xlabel("training FLOPs")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.grid()
    drawn[0].set_ylabel("validation top-1 (%)")
    if enlarged:
        _enlarge(drawn[1], shown.values())
    name_far(drawn[0], far, ends)
    router_legend(figure, {e.system: study.styles[e.system] for e in shown}, 3)
    counts = number_of_runs({e.system: int(points["n"].max()) for e, points in curves.items()})
    caption = TRAINING_CAPTION.format(counts=counts, right=RIGHT if enlarged else "")
    return caption, figure, curves


def curve(study: StudyData, entry: Entry) -> pd.DataFrame:
    """Summarise each evaluation: mean FLOPs; accuracies in % as mean, lowest, highest and count.

    Seeds are matched by evaluation, since their steps differ if a time budget decides them.
    """
    rows = study.rows("val_top1", entry).dropna(subset=["step", "value"]).sort_values("step")
    rows = rows.assign(flops=[where.get("flops") for where in rows["where"]])
    rows = rows.assign(value=100 * rows["value"])
    return over_seeds(rows, "flops")


def _second_half(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["flops"] >= points["flops"].max() / 2]


def _enlarge(axes: Axes, curves: Iterable[pd.DataFrame]) -> None:
    """Limit the axes to the second half of training."""
    late = pd.concat([_second_half(points) for points in curves])
    room = 0.06 * max(late["high"].max() - late["low"].min(), 0.5)
    axes.set_xlim(0.98 * late["flops"].min(), 1.01 * late["flops"].max())
    axes.set_ylim(late["low"].min() - room, late["high"].max() + room)
