"""Ranks by accuracy: over conditions (Friedman's test), and their spread in bootstrap samples."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.axes import label_systems
from report.comparisons import METRIC
from report.conditions import Entry, System
from report.study import StudyData
from report.style import COLUMN, FAINT, INK, PAGE, blank
from report.table import Cell, Column, Lacking, Row, captioned, number_of_runs, text_columns, words
from report.topics.make import Contents, Sketch, as_figure, as_table
from results.statistics.means import ALPHA
from results.statistics.ranks import (
    FEWEST_BLOCKS,
    FEWEST_SYSTEMS,
    Ranking,
    RankSpread,
    bootstrap_ranks,
    ranking,
)


def standings(study: StudyData) -> pd.DataFrame:
    """Return mean accuracies: a row per condition, a column per system with results under each.

    A system is left out if it failed under a condition, or if one entry serves several conditions
    (such as `dense` if only the capacity differs), since the same runs would count repeatedly.
    """
    by_system = {}
    for system in study.systems:
        entries = [study.entry(system, condition) for condition in study.conditions]
        means = [study.final(METRIC, entry).mean() for entry in entries]
        if len(set(entries)) == len(entries):
            by_system[system] = means
    return pd.DataFrame(by_system, index=study.conditions).dropna(axis=1)


def rank(study: StudyData) -> Ranking:
    """Rank the systems over the conditions.

    Raises:
        Lacking: there are too few conditions or systems, or all accuracies are equal.
    """
    values = standings(study)
    blocks, systems = values.shape
    if blocks < FEWEST_BLOCKS or systems < FEWEST_SYSTEMS:
        why = (
            f"Friedman's test over conditions needs at least {FEWEST_BLOCKS} of them and "
            f"{FEWEST_SYSTEMS} routers with results under each; here are {blocks} and {systems}"
        )
        raise Lacking(why, fine=True)
    if (values.nunique(axis=1) == 1).all():
        raise Lacking("under each condition all routers reached the same accuracy", fine=True)
    return ranking(values)


@as_table("ranks", "Average ranks over conditions", "accuracy")
def table(study: StudyData) -> Contents:
    """Make a row for each router with results under every condition, the best rank first."""
    ranks = rank(study)
    rows = []
    for system, mean in ranks.ranks.items():
        entries = [study.entry(system, condition) for condition in study.conditions]
        seeds = [study.final(METRIC, entry).index for entry in entries]
        trials = tuple(chain.from_iterable(map(study.behind, entries, seeds)))
        apart = [other for other in ranks.ranks.index if ranks.pairs.loc[system, other] < ALPHA]
        others = words(", ".join(map(str, apart)) or "none", trials=trials)
        average = Cell(mean, n=ranks.blocks, trials=trials)
        rows.append(Row((words(system.label), average, others), ranks.blocks, entries[0]))
    out = [system.label for system in study.systems if system not in ranks.ranks.index]
    left = f"Not ranked, since they lack runs of their own under each: {', '.join(out)}."
    caption = captioned(
        f"Ranks by mean top-1 within each of {ranks.blocks} conditions, 1 is best, ties share "
        f"theirs. {verdict(ranks)}",
        "Conditions that share a data set or seeds are not independent, so these p-values are "
        "lower than they should be.",
        left if out else "",
    )
    columns = (
        *text_columns("router"),
        Column("rank", "average rank", better="lower"),
        *text_columns(apart="differs from"),
    )
    return caption, columns, rows


def verdict(ranks: Ranking) -> str:
    """Return the outcome of Friedman's test and the critical difference, in words."""
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


@as_figure("critical_difference", "Critical-difference diagram", "accuracy")
def draw(study: StudyData) -> Sketch:
    """Draw one figure over all conditions."""
    ranks = rank(study)
    # Slow to import, and few studies have enough conditions.
    from scikit_posthocs import critical_difference_diagram

    figure = blank(PAGE, 1.0 + 0.16 * len(ranks.ranks))
    axes = figure.subplots()
    drawn = critical_difference_diagram(
        ranks.ranks,
        ranks.pairs,
        ax=axes,
        label_fmt_left="{label}  {rank:.2f}",
        label_fmt_right="{rank:.2f}  {label}",
        color_palette={system: study.styles[system].colour for system in ranks.ranks.index},
        label_props={"fontsize": 7},
        text_h_margin=0.04 * len(ranks.ranks),
        crossbar_props={"color": FAINT, "linewidth": 2.4, "solid_capstyle": "butt"},
        elbow_props={"linewidth": 0.8},
        marker_props={"s": 14},
    )
    for label in drawn["labels"]:
        label.set_color(INK)
    for (bar,) in drawn["crossbars"]:  # it visits its ranks in set order, which varies
        bar.set_xdata(sorted(bar.get_xdata()))
    axes.spines["top"].set_visible(True)
    _scale(axes, ranks.critical_difference)
    caption = captioned(
        f"Average rank of each router over {ranks.blocks} conditions by mean top-1, the best on "
        "the left. A grey bar joins routers that Nemenyi's test does not tell apart; CD: the "
        "critical difference.",
        verdict(ranks),
    )
    return caption, figure, [e for e in study.entries if e.system in ranks.ranks.index]


def _scale(axes: Axes, difference: float) -> None:
    """Draw a bar of the length of the critical difference above the axis and its numbers."""
    axes.plot([1, 1 + difference], [1.5, 1.5], color=INK, linewidth=1.0, marker="|", markersize=5)
    axes.text(
        1 + difference / 2, 1.7, f"CD = {difference:.2f}", ha="center", va="bottom", fontsize=7
    )


@dataclass(frozen=True)
class Place:
    """A system, its ranks in bootstrap samples, and the trials behind them."""

    system: System
    entries: tuple[Entry, ...]
    spread: RankSpread
    seeds: int
    trials: tuple[str, ...]


@lru_cache(maxsize=1)
def places(study: StudyData) -> list[Place]:
    """Rank the systems with results under every condition in bootstrap samples.

    Raises:
        Lacking: there are fewer than two of them, or only one run of each to draw from.
    """
    systems = list(standings(study))
    entries = {s: [study.entry(s, condition) for condition in study.conditions] for s in systems}
    runs = {s: [study.final(METRIC, entry) for entry in own] for s, own in entries.items()}
    seeds = sorted({int(seed) for own in runs.values() for each in own for seed in each.index})
    if len(systems) < 2:
        raise Lacking("no two routers have results of their own under each condition", fine=True)
    if len(seeds) < 2 and len(study.conditions) < 2:
        raise Lacking("with one seed and condition there is nothing to draw from", fine=True)
    values = np.array([[each.reindex(seeds) for each in own] for own in runs.values()], dtype=float)
    spreads = bootstrap_ranks(values.swapaxes(0, 1))
    made = []
    for system, spread in zip(systems, spreads, strict=True):
        own, each = entries[system], runs[system]
        trials = chain.from_iterable(map(study.behind, own, (values.index for values in each)))
        most = max(map(len, each))
        made.append(Place(system, tuple(filter(None, own)), spread, most, tuple(trials)))
    return sorted(made, key=lambda place: place.spread.mean)


def caption_of_places(study: StudyData) -> str:
    """Return how the samples were drawn, and what the ranks in them mean."""
    conditions = len(study.conditions)
    over = "seeds" if conditions == 1 else f"seeds and of {conditions} conditions"
    average = "" if conditions == 1 else " (of its average rank over the conditions)"
    return (
        f"Rank by mean top-1{average} in 4,000 bootstrap samples of {over}, each of one fewer than "
        "there are, drawn with replacement, a seed for all routers at once. It shows how much the "
        "order depends on chance; the paired differences say whether two routers differ. With few "
        "seeds there are few different samples."
    )


@as_table("rank_bootstrap", "Ranks in bootstrap samples", "accuracy")
def bootstrap_table(study: StudyData) -> Contents:
    """Make a row for each system, the best mean rank first."""
    rows = []
    for place in places(study):
        n, spread, trials = place.seeds, place.spread, place.trials
        mean = Cell(spread.mean, spread.low, spread.high, n, bracketed=True, trials=trials)
        cells = (words(place.system.label), mean, Cell(spread.best, n=n, trials=trials))
        rows.append(Row(cells, n, place.entries[0]))
    columns = (
        *text_columns("router"),
        Column("rank", "mean rank", better="lower"),
        Column("best", "best", "%", scale=100, digits=0),
    )
    caption = captioned(
        "Mean rank in bootstrap samples, and the interval with 95 % of the ranks. Best: the share "
        "of samples in which a router leads.",
        caption_of_places(study),
    )
    return caption, columns, rows


@as_figure("rank_intervals", "Ranks in bootstrap samples", "accuracy")
def draw_intervals(study: StudyData) -> Sketch:
    """Draw the interval of each system's rank, the best at the top."""
    shown = places(study)
    figure = blank(COLUMN, 0.6 + 0.2 * len(shown))
    axes = figure.subplots()
    for row, place in enumerate(shown):
        style, spread = study.styles[place.system], place.spread
        axes.plot([spread.low, spread.high], [row, row], color=style.colour, lw=1.3)
        axes.plot([spread.mean], [row], **style.point, ls="", clip_on=False)
        axes.annotate(
            f"{100 * spread.best:.0f} %",
            (1.02, row),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=7,
            color=FAINT,
        )
    label_systems(axes, [place.system for place in shown])
    axes.set_xlim(0.8, len(shown) + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank by mean top-1")
    runs = number_of_runs({place.system: place.seeds for place in shown})
    caption = captioned(
        f"Ranks in bootstrap samples ({runs}). Marker: mean rank; line: the interval with 95 % of "
        "the ranks; on the right: the share of samples in which the router leads.",
        caption_of_places(study),
    )
    return caption, figure, [entry for place in shown for entry in place.entries]
