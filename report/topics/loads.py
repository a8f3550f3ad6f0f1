"""Loads of single experts: by layer as a heat map, and relative to the fair share as curves."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import FixedLocator, MaxNLocator

from report.axes import colour_bar
from report.cells import listed, why_without
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, PAGE, RouterStyle, folded, panels
from report.table import CONSTANT, Lacking, captioned
from report.topics.make import Sketch, as_figures
from results.conditions import Condition
from results.groups import grouped

BY_LAYER = (
    "Load over the test split (tokens that an expert processed, after dropping) over the mean of "
    "its layer: 1 is even. Experts are ranked by load within each run and layer, since an expert's "
    "number means nothing across seeds; cells are means over the n seeds. Rows: MoE layers from "
    f"the input; {CONSTANT}: even by construction."
)
OVER_IDEAL = (
    "Load over ideal: an expert's tokens over those that it would process if all were equally "
    "loaded (dashed: 1 is fair, 0 is dead), ranked within each run and layer. Line: median over "
    "the n seeds and all MoE layers; band: from there to the 95th percentile; max: the highest "
    "load of any expert, layer and seed."
)
COLOURS = "PuOr_r"


@as_figures("load", "Load of each expert, by layer", "balance")
def draw_load(study: StudyData, condition: Condition) -> Sketch:
    """Draw a heat map for each router, with layers down and experts by rank across."""
    layers = _layers_of(study, condition)
    tables = {entry: np.stack([rows.mean(axis=0) for rows in own]) for entry, own in layers.items()}
    depth = max(map(len, tables.values()))
    norm = TwoSlopeNorm(1, 0, max(2.0, *(float(table.max()) for table in tables.values())))
    figure, axes = panels(len(tables), 4, PAGE, 0.6 + 0.14 * max(depth, 3))
    for (entry, table), place in zip(tables.items(), axes, strict=True):
        place.imshow(table, cmap=COLOURS, norm=norm, aspect="auto", interpolation="nearest")
        place.set_title(_title(study, entry, layers[entry]))
        rows, experts = table.shape
        place.yaxis.set_major_locator(FixedLocator(range(0, rows, max(1, rows // 6))))
        place.set_xticks([0, experts - 1], ["most", "least"])
    figure.supxlabel("experts by load", fontsize=7.5)
    figure.supylabel("MoE layer", fontsize=7.5)
    colour_bar(figure, axes, norm, COLOURS, "load / mean load")
    return BY_LAYER, figure, tables


@as_figures("load_over_ideal", "Load over ideal, from the busiest expert to the idlest", "balance")
def draw_over_ideal(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for each router: load against the rank of the expert."""
    every = _layers_of(study, condition)
    layers = {e: own for e, own in every.items() if not study.is_constant("load_cv", e)}
    if not layers:
        raise Lacking("every load is even by construction", fine=True)
    figure, axes = panels(len(layers), 4, PAGE, 1.25, sharey=True)
    for (entry, own), place in zip(layers.items(), axes, strict=True):
        _draw_ranked(place, study.styles[entry.system], np.concatenate(own))
        place.set_title(_title(study, entry, own))
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("experts by load", fontsize=7.5)
    figure.supylabel("load / ideal load", fontsize=7.5)
    even = [str(entry.system) for entry in every if entry not in layers]
    more = f"Even by construction, and left out: {listed(even, 'balance')}." if even else ""
    return captioned(OVER_IDEAL, more), figure, layers


def _draw_ranked(axes: Axes, style: RouterStyle, loads: np.ndarray) -> None:
    """Draw loads relative to the ideal, (runs and layers, E), each row in descending order."""
    middle, high = np.percentile(loads, (50, 95), axis=0)
    ranks = np.arange(1, loads.shape[1] + 1)
    axes.fill_between(ranks, middle, high, color=style.colour, alpha=0.25, lw=0)
    axes.plot(ranks, middle, **style.line, markersize=3)
    axes.axhline(1, color=FAINT, lw=0.8, ls=(0, (4, 2)), zorder=0)
    axes.text(0.97, 0.95, f"max {loads.max():.2f}", transform=axes.transAxes, ha="right", va="top")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 4, 5, 10]))


def _layers_of(study: StudyData, condition: Condition) -> dict[Entry, list[np.ndarray]]:
    """Return the loads of each entry of a condition that has any (see `loads_over_mean`).

    Raises:
        Lacking: no entry has any.
    """
    layers = {e: own for e in study.under(condition) if (own := loads_over_mean(study, e))}
    if not layers:
        raise Lacking(why_without(study, "balance", "loads"))
    return layers


def loads_over_mean(study: StudyData, entry: Entry) -> list[np.ndarray]:
    """Return, for each MoE layer, the loads of its experts divided by their mean, (seeds, E).

    Each row is in descending order.
    """
    records = study.array("load", entry)
    layers = grouped((record.layer or 0, over_mean(record.values)) for record in records)
    return [np.stack(layers[layer]) for layer in sorted(layers)]


def over_mean(loads: np.ndarray) -> np.ndarray:
    """Return the loads of a layer's experts divided by their mean, largest first: (E,)."""
    ranked = np.sort(np.asarray(loads, dtype=float))[::-1]
    return ranked / max(ranked.mean(), 1e-12)


def _title(study: StudyData, entry: Entry, layers: list[np.ndarray]) -> str:
    mark = CONSTANT if study.is_constant("load_cv", entry) else ""  # even by construction
    return folded(f"{entry.system}{mark} (n={min(map(len, layers))})", 24)
