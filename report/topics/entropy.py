"""H_s against H_u: how decided a router is, against how evenly it uses its experts."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

from matplotlib.axes import Axes

from report.axes import CUT, halves, mark_cut
from report.cells import why_without
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, GRID, PAGE, PAPER, Drawing, panels, router_legend, style
from report.table import Absent, number_of_runs
from results.statistics import mean_interval

FIGURE, FIGURE_TITLE = "entropy", "How decided, how even: H_s against H_u"
FIGURE_CAPTION = (
    "Entropies over the test split, in bits, mean over the MoE layers. H_s: mean entropy of a "
    "token's distribution over experts; 0 is decided. H_u: entropy of the mean distribution; log2 "
    "E (dashed) is even use. H_s cannot exceed H_u (grey). Large marker: mean over the seeds "
    "({counts}); bars: 95 % Student t intervals (none where n = 1); dots: the seeds. " + CUT
)
OF = {"gates": "gates: what the router wanted", "combine": "combine weights: what it did"}


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition, a panel for the gates and one for the combine weights."""
    for name, heading, condition in study.by_condition(FIGURE, FIGURE_TITLE):
        entries = [e for e in study.under(condition) if len(study.final("H_s", e, of="gates"))]
        if not entries:
            yield Absent(name, heading, why_without(study, "entropy", "entropies"))
            continue
        with style():
            figure, axes = panels(len(OF), 2, PAGE, 2.0 + 0.07 * len(entries))
            lowest, top = _range(study, entries)
            for (of, label), place in zip(OF.items(), axes, strict=True):
                place.set_title(label)
                _panel(place, study, entries, of, lowest, top)
            styles = {entry.router: study.styles[entry.router] for entry in entries}
            router_legend(figure, styles, 3, linestyle="none")
        counts = number_of_runs({e.router: len(study.final("H_s", e, of="gates")) for e in entries})
        yield Drawing(name, heading, FIGURE_CAPTION.format(counts=counts), figure, tuple(entries))


def _panel(
    axes: Axes, study: StudyData, entries: list[Entry], of: str, lowest: float, top: float
) -> None:
    axes.fill_between([0, top * 1.06], [0, top * 1.06], color=GRID, alpha=0.5, lw=0)
    axes.axhline(top, color=FAINT, lw=0.8, ls=(0, (4, 2)))
    across_ends, up_ends = (-0.04 * top, 1.06 * top), (lowest - 0.05 * top, 1.06 * top)
    beside = axes.get_yaxis_transform()
    axes.annotate(
        "$\\log_2 E$", (1.01, top), xycoords=beside, va="center", color=FAINT, parse_math=True
    )
    for entry in entries:
        style = study.styles[entry.router]
        across = study.final("H_s", entry, of=of)
        up = study.final("H_u", entry, of=of, kind="soft").reindex(across.index)
        if across.empty or up.isna().any():
            continue
        h_s, h_u = mean_interval(list(across)), mean_interval(list(up))
        axes.scatter(across, up, s=5, color=style.colour, lw=0)
        axes.errorbar(
            [h_s.mean],
            [h_u.mean],
            xerr=halves(h_s, across_ends),
            yerr=halves(h_u, up_ends),
            color=style.colour,
            marker=style.marker,
            markersize=6,
            mec=PAPER,
            mew=0.5,
            elinewidth=0.9,
        )
        mark_cut(axes, h_s, across_ends, h_u.mean, style.colour)
        mark_cut(axes, h_u, up_ends, h_s.mean, style.colour, upright=True)
    axes.set_xlim(*across_ends)
    axes.set_ylim(*up_ends)
    axes.set_xlabel("$H_s$ (bit); lower: more decided", parse_math=True)
    axes.set_ylabel("$H_u$ (bit); higher: more even", parse_math=True)


def _range(study: StudyData, entries: list[Entry]) -> tuple[float, float]:
    """Return the lowest mean H_u of any router, and log2 E."""
    means = [study.final("H_u", e, of=of, kind="soft").mean() for e in entries for of in OF]
    rows = study.trials[study.trials["router"].isin([entry.router for entry in entries])]
    experts = int(rows["num_experts"].max())
    return min(mean for mean in means if mean == mean), log2(max(experts, 2))
