"""Validation accuracy along training, against the FLOPs spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from report.axes import far_nulls, name_far
from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, Drawing, draw_line, panels, router_legend, style
from report.table import Absent, number_of_runs

FIGURE, FIGURE_TITLE = "training", "Accuracy along training"
FIGURE_CAPTION = (
    "Top-1 accuracy on the validation split against the FLOPs spent on training until then{right}. "
    "Line: mean over the seeds ({counts}); band: from the "
    "lowest to the highest seed (none where n = 1)."
)


RIGHT = "; right: the second half of training, enlarged"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition."""
    for name, heading, condition in study.by_condition(FIGURE, FIGURE_TITLE):
        curves = {entry: curve(study, entry) for entry in study.under(condition)}
        curves = {entry: points for entry, points in curves.items() if not points.empty}
        if not curves:
            yield Absent(name, heading, "no trial was evaluated along the way (suite accuracy)")
            continue
        far = far_nulls(study, {e: list(points["mean"]) for e, points in curves.items()})
        ends = {entry: points["mean"].iloc[-1] for entry, points in curves.items()}
        shown = {entry: points for entry, points in curves.items() if entry not in far}
        with style():
            enlarged = max(len(_second_half(points)) for points in shown.values()) > 2
            figure, drawn = panels(1 + enlarged, 2, PAGE, 2.1 + 0.05 * len(curves))
            for axes in drawn:
                for entry, points in shown.items():
                    draw_line(axes, study.styles[entry.router], points, "flops")
                axes.set_xlabel("training FLOPs")
                axes.xaxis.set_major_locator(MaxNLocator(5))
                axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
                axes.grid()
            drawn[0].set_ylabel("validation top-1 (%)")
            if enlarged:
                _enlarge(drawn[1], shown.values())
            name_far(drawn[0], far, ends)
            router_legend(figure, {e.router: study.styles[e.router] for e in shown}, 3)
        counts = number_of_runs({e.router: int(points["n"].max()) for e, points in curves.items()})
        caption = FIGURE_CAPTION.format(counts=counts, right=RIGHT if enlarged else "")
        yield Drawing(name, heading, caption, figure, tuple(curves))


def curve(study: StudyData, entry: Entry) -> pd.DataFrame:
    """Summarise each evaluation: mean FLOPs; accuracies in % as mean, lowest, highest and count.

    They are at the same shares of a training, whose steps differ where seconds decide them.
    """
    rows = study.rows("val_top1", entry)
    rows = rows[rows["step"].notna()].dropna(subset="value").sort_values("step")
    spent = rows.assign(flops=[where.get("flops") for where in rows["where"]])
    by_place = spent.assign(top1=100 * spent["value"]).groupby(spent.groupby("seed").cumcount())
    return by_place.agg(
        flops=("flops", "mean"),
        mean=("top1", "mean"),
        low=("top1", "min"),
        high=("top1", "max"),
        n=("top1", "size"),
    )


def _second_half(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["flops"] >= points["flops"].max() / 2]


def _enlarge(axes: Axes, curves: Iterable[pd.DataFrame]) -> None:
    """Shows the second half of training alone."""
    late = pd.concat([_second_half(points) for points in curves])
    room = 0.06 * max(late["high"].max() - late["low"].min(), 0.5)
    axes.set_xlim(0.98 * late["flops"].min(), 1.01 * late["flops"].max())
    axes.set_ylim(late["low"].min() - room, late["high"].max() + room)
