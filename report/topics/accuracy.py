"""The main table: what each router reached, what it cost, and how it routed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from textwrap import fill

from matplotlib.axes import Axes

from report.axes import CUT, far_nulls, halves, is_cut, limits, mark_cut
from report.cells import (
    BEST,
    INTERVALS,
    LEAD,
    lead,
    metric_cell,
    sentence_on_analyses,
    stands_under,
    why_without,
)
from report.comparisons import against_nulls
from report.conditions import DENSE, Entry
from report.study import StudyData
from report.style import COLUMN, FAINT, PAGE, PAPER, Drawing, label_routers, panels, style
from report.table import Absent, Column, Row, Table, assemble
from report.timings import of_entry, representative, timings
from report.topics import generic, tuning
from report.topics.compute import what_is_matched
from report.topics.cost import number
from report.topics.differences import null_caption, null_cells, null_columns
from results.conditions import Condition
from results.statistics import Interval, mean_interval

NAME, TITLE = "main", "Routers at equal budgets"
ACCURACY = {
    "top1": Column("top1", "top-1", "%", "higher", 100, 1, ranked=True),
    "top5": Column("top5", "top-5", "%", "higher", 100, 1, ranked=True),
    "nll": Column("nll", "NLL", "nat", "lower", digits=3, ranked=True),
    "ece": Column("ece", "ECE", "%", "lower", 100, 1, ranked=True),
}
COST = {
    "train_flops": Column("train_flops", "training", "FLOP", si=True),
    "params_total": Column("params_total", "params", si=True),
    "params_active": Column("params_active", "active", si=True),
}
BALANCE = {
    "load_cv": Column("load_cv", "load CV", "", "lower"),
    "dropped": Column("dropped", "dropped", "%", "lower", 100, 1),
    "uncovered": Column("uncovered", "uncovered", "%", "lower", 100, 1),
}
GATES, COMBINE = {"of": "gates", "kind": "soft"}, {"of": "combine", "kind": "soft"}
ENTROPY = (
    ("H_s", GATES, Column("H_s", "H_s", "bit")),
    ("H_u", GATES, Column("H_u", "H_u", "bit")),
    ("MI_label_corrected", COMBINE, Column("MI", "I(E;Y)", "bit")),
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each router under each condition."""
    if not study.entries:
        return Absent(NAME, TITLE, "the study has no trials; bare layers alone have no accuracy")
    timed = timings(study)
    setting = representative(timed)
    compared, under = against_nulls(study), stands_under(study)
    others = generic.headlines(study)
    rows = []
    for entry in study.entries:
        n = study.finished(entry)
        cells = lead(study, entry, n)
        cells += [metric_cell(study, metric, entry) for metric in ACCURACY]
        cells += null_cells(study, compared, entry)
        cells += [metric_cell(study, metric, entry) for metric in COST]
        timing = of_entry(timed, setting, entry)
        cells.append(replace(number(timing, "forward_overhead"), low=None, high=None))
        cells += [metric_cell(study, metric, entry) for metric in BALANCE]
        cells += [metric_cell(study, metric, entry, **where) for metric, where, _ in ENTROPY]
        cells += [other.cell(entry) for other in others]
        rows.append(Row(tuple(cells), n, entry, under[entry]))
    columns = [*LEAD, *ACCURACY.values(), *null_columns(study), *COST.values()]
    columns += [Column("forward_overhead", "overhead", "×", "lower", n=1)]
    columns += [*BALANCE.values(), *(column for _, _, column in ENTROPY)]
    columns += [other.column for other in others]
    where = f"{setting.title} ({setting.sizes}) on {setting.machine}" if setting else ""
    text = " ".join([caption(study, where), *(other.sentence for other in others)])
    return assemble(NAME, TITLE, text, columns, rows)


def caption(study: StudyData, timed: str) -> str:
    """Say what the columns are; `timed` what the overhead is of, "" where nothing was timed."""
    parts = [
        what_is_matched(study),
        "Accuracy on the test split.",
        INTERVALS,
        sentence_on_analyses(study),
        BEST,
        null_caption(study),
        tuning.sentence(study),
        "Training: FLOPs spent. Load CV, dropped, uncovered, H_s and H_u (of the gates), I(E;Y) "
        "(of the combine weights and the class, bias-corrected): means over the MoE layers. "
        "Dropped: choices of tokens that were lost to capacity; uncovered: tokens that no expert "
        "processed.",
        f"Overhead: median forward time over that of a dense MLP of the same expert FLOPs, {timed}."
        if timed
        else "",
        f"Routers are named with their experts, but for the usual ones ({study.usual_experts})."
        if study.usual_experts
        else "",
    ]
    return " ".join(filter(None, parts))


FIGURE, FIGURE_TITLE = "accuracy", "Test accuracy by router"
FIGURE_CAPTION = (
    "Top-1 accuracy on the test split. Large marker: mean over the n seeds; bar: 95 % Student t "
    "interval of that mean (none where n = 1); small dots: the seeds. Dashed line: mean of dense, "
    "the model without MoE layers."
)
COLUMNS = 2
ARROW = "Arrow: a null beyond the axis, its mean ± half of its interval."


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure, a panel for each condition."""
    if not any(len(study.final("top1", entry)) for entry in study.entries):
        yield Absent(FIGURE, FIGURE_TITLE, why_without(study, "accuracy", "a test accuracy"))
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
        near = {e: own for e, own in values.items() if own and e not in far}
        intervals = [mean_interval(own, study.confidence) for own in near.values()]
        ends = limits([v for own in near.values() for v in own], intervals, (0, 100))
        for condition, place in zip(conditions, axes, strict=True):
            place.set_title(fill(condition.label, 44, break_long_words=False))
            _panel(place, study, routers, condition, far, ends)
        for lowest in axes[-COLUMNS:]:
            lowest.set_xlabel("top-1 accuracy (%)")
        axes[0].set_xlim(*ends)
    cut = CUT if any(is_cut(interval, ends) for interval in intervals) else ""
    parts = (FIGURE_CAPTION, cut, ARROW if far else "", sentence_on_analyses(study))
    caption = " ".join(filter(None, parts))
    yield Drawing(FIGURE, FIGURE_TITLE, caption, figure, tuple(study.entries))


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
        style, interval = study.styles[router], mean_interval(list(values), study.confidence)
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
            axes.scatter(values, level, s=5, color=style.colour, lw=0, clip_on=False)
        axes.errorbar(
            [interval.mean],
            [place],
            xerr=halves(interval, ends),
            color=style.colour,
            marker=style.marker,
            markersize=5.5,
            mec=PAPER,
            mew=0.5,
            elinewidth=1.3,
            clip_on=False,
        )
        mark_cut(axes, interval, ends, place, style.colour)
    label_routers(axes, routers)


def _arrow(axes: Axes, place: int, interval: Interval, *, above: bool) -> None:
    """Draw an arrow where a mean lies beyond the axis."""
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
