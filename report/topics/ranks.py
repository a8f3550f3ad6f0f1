"""The accuracies that ranks are made of: every system under every condition."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.comparisons import METRIC
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, INK, PAGE, Drawing, blank, style
from report.table import Absent, Cell, Column, Row, Table, assemble, words
from results.statistics import ALPHA
from results.statistics.ranks import FEWEST_BLOCKS, FEWEST_SYSTEMS, Ranking, ranking


def standings(study: StudyData) -> pd.DataFrame:
    """Mean accuracy over seeds: a row a condition, a column a system that has one under each.

    Left out are systems that failed under a condition, and those with one entry for several, as
    `dense` where only the capacity differs: the same runs would count as several blocks.
    """
    by_router = {}
    for router in study.routers:
        entries = [study.entry(router, condition) for condition in study.conditions]
        means = [study.final(METRIC, entry).mean() for entry in entries]
        if len(set(entries)) == len(entries):
            by_router[router] = means
    return pd.DataFrame(by_router, index=study.conditions).dropna(axis=1)


def why_not(values: pd.DataFrame) -> str:
    """Say why these have no ranking; "" where they have one."""
    blocks, systems = values.shape
    if blocks < FEWEST_BLOCKS or systems < FEWEST_SYSTEMS:
        return (
            f"Friedman's test over conditions needs at least {FEWEST_BLOCKS} of them and "
            f"{FEWEST_SYSTEMS} routers with results under each; here are {blocks} and {systems}"
        )
    if (values.nunique(axis=1) == 1).all():
        return "under each condition all routers reached the same accuracy"
    return ""


NAME, TITLE = "ranks", "Average ranks over conditions"
COLUMNS = (
    Column("router", "router", words=True),
    Column("rank", "average rank", better="lower"),
    Column("apart", "differs from", words=True),
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each router that has results under every condition, the best rank first."""
    values = standings(study)
    if why := why_not(values):
        return Absent(NAME, TITLE, why, fine=True)
    ranks = ranking(values)
    rows = []
    for name, rank in ranks.ranks.items():
        entries = [study.entry(name, condition) for condition in study.conditions]
        trials = tuple(t for entry in entries for t in _trials(study, entry))
        apart = [other for other in ranks.ranks.index if ranks.pairs.loc[name, other] < ALPHA]
        others = words(", ".join(apart) or "none", trials=trials)
        average = Cell(rank, n=ranks.blocks, trials=trials)
        rows.append(Row((words(name), average, others), ranks.blocks, entries[0]))
    return assemble(NAME, TITLE, _caption(ranks, study), COLUMNS, rows)


def _trials(study: StudyData, entry: Entry | None) -> tuple[str, ...]:
    return study.behind(entry, study.final(METRIC, entry).index)


def _caption(ranks: Ranking, study: StudyData) -> str:
    out = [name for name in study.routers if name not in ranks.ranks.index]
    left = (
        f" Not ranked, for want of runs of their own under each: {', '.join(out)}." if out else ""
    )
    return (
        f"Ranks by mean top-1 within each of {ranks.blocks} conditions, 1 is best, ties share "
        f"theirs. {verdict(ranks)} Conditions that share a data "
        f"set or seeds are not independent, so these p-values are lower than they should be.{left}"
    )


def verdict(ranks: Ranking) -> str:
    """Say what Friedman's test says, in a sentence, and from where on two ranks differ."""
    systems = len(ranks.ranks)
    differ = "differ" if ranks.f_p < ALPHA else "are not shown to differ"
    chi_squared, f = f"{ranks.chi_squared:.2f}", f"{ranks.f:.2f}"
    return (
        f"The routers {differ}: Friedman's chi-squared({systems - 1}) = {chi_squared}, p = "
        f"{ranks.chi_squared_p:.3g}; Iman and Davenport's F({systems - 1}, "
        f"{(systems - 1) * (ranks.blocks - 1)}) = {f}, p = {ranks.f_p:.3g}. Average ranks further "
        f"apart than the critical difference {ranks.critical_difference:.2f} differ (Nemenyi, "
        f"{ALPHA})."
    )


FIGURE, FIGURE_TITLE = "critical_difference", "Critical-difference diagram"
FIGURE_CAPTION = (
    "Average rank of each router over {blocks} conditions by mean top-1, the best on the left. A "
    "grey bar joins routers that Nemenyi's test does not tell apart; CD: the critical difference. "
    "{verdict}"
)


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure of all conditions."""
    values = standings(study)
    if why := why_not(values):
        yield Absent(FIGURE, FIGURE_TITLE, why, fine=True)
        return
    ranks = ranking(values)
    entries = [e for e in study.entries if e.router in ranks.ranks.index]
    caption = FIGURE_CAPTION.format(blocks=ranks.blocks, verdict=verdict(ranks))
    yield Drawing(FIGURE, FIGURE_TITLE, caption, _figure(ranks, study), tuple(entries))


def _figure(ranks: Ranking, study: StudyData) -> Figure:
    # Slow to import, and few studies have conditions enough.
    from scikit_posthocs import critical_difference_diagram

    with style():
        figure = blank(PAGE, 1.0 + 0.16 * len(ranks.ranks))
        axes = figure.subplots()
        drawn = critical_difference_diagram(
            ranks.ranks,
            ranks.pairs,
            ax=axes,
            label_fmt_left="{label}  {rank:.2f}",
            label_fmt_right="{rank:.2f}  {label}",
            color_palette={name: study.styles[name].colour for name in ranks.ranks.index},
            label_props={"fontsize": 7},
            text_h_margin=0.04 * len(ranks.ranks),
            crossbar_props={"color": FAINT, "linewidth": 2.4, "solid_capstyle": "butt"},
            elbow_props={"linewidth": 0.8},
            marker_props={"s": 14},
        )
        for label in drawn["labels"]:
            label.set_color(INK)
        axes.spines["top"].set_visible(True)
        _scale(axes, ranks.critical_difference)
    return figure


def _scale(axes: Axes, difference: float) -> None:
    """Draw a bar as long as the critical difference, above the axis and its numbers."""
    axes.plot([1, 1 + difference], [1.5, 1.5], color=INK, linewidth=1.0, marker="|", markersize=5)
    axes.text(
        1 + difference / 2, 1.7, f"CD = {difference:.2f}", ha="center", va="bottom", fontsize=7
    )
