"""How evenly the routers used their experts: the network, each layer, and each expert's load."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import FixedLocator

from report.cells import (
    INTERVALS,
    LEAD,
    measured,
    measured_by,
    metric_cell,
    metric_row,
    why_unmeasured,
    why_without,
)
from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, colour_bar, folded, panels
from report.table import CONSTANT, Column, Lacking, text_columns
from report.topics.make import Contents, Sketch, as_figures, as_table
from results.conditions import Condition

BALANCE = (
    Column("demand_cv", "demand CV", "", "lower"),
    Column("load_cv", "load CV", "", "lower"),
    Column("load_max_over_mean", "load max/mean", "", "lower"),
    Column("load_gini", "load Gini", "", "lower"),
    Column("load_entropy", "load entropy", "", "higher", digits=3),
    Column("load_dead", "dead", "", "lower", digits=1),
    Column("dropped", "dropped", "%", "lower", 100, 1),
    Column("uncovered", "uncovered", "%", "lower", 100, 1),
    Column("experts_per_token_mean", "experts a token"),
    Column("experts_per_token_min", "fewest", digits=1),
    Column("experts_per_token_max", "most", digits=1),
    Column("importance_cv", "importance CV", "", "lower"),
    Column("capacity", "capacity", digits=1),
    Column("marginal_error", "marginal error", "", "lower", digits=3),
)
BY_LAYER = ("demand_cv", "load_cv", "load_max_over_mean", "load_dead", "dropped", "uncovered")


@as_table("balance", "Balance of the experts", "balance")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition: means over the MoE layers."""
    rows = [
        metric_row(study, entry, [metric_cell(study, column.key, entry) for column in BALANCE])
        for entry in measured_by(study, "balance")
    ]
    caption = (
        f"Over the test split at the end of training, mean over the MoE layers. {INTERVALS} "
        "Demand: tokens that want an expert, before dropping; load: tokens that it processes. CV: "
        "population std over mean; load entropy: over log2 E (1 is even); dead: experts below 1 % "
        "of the mean load; dropped: choices of tokens that were lost to capacity; uncovered: "
        "tokens that no expert processed; capacity: slots of an expert in a group."
    )
    return caption, (*LEAD, *BALANCE), rows


@as_table("balance_by_layer", "Balance, layer by layer", "balance")
def table_by_layer(study: StudyData) -> Contents:
    """Make a row for each router, condition and MoE layer."""
    columns = [column for column in BALANCE if column.key in BY_LAYER]
    rows = []
    for entry in measured(study, "balance"):
        for layer in study.layers("load_cv", entry):
            cells = [metric_cell(study, column.key, entry, layer=layer) for column in columns]
            rows.append(metric_row(study, entry, cells, str(layer)))
    if not rows:
        raise Lacking(why_unmeasured(study, "balance"))
    caption = f"MoE layers in network order, from 0. {INTERVALS}"
    return caption, (*LEAD, *text_columns("layer"), *columns), rows


CAPTION = (
    "Load over the test split (tokens that an expert processed, after dropping) over the mean of "
    "its layer: 1 is even. Experts are ranked by load within each run and layer, since an expert's "
    "number means nothing across seeds; cells are means over the n seeds. Rows: MoE layers from "
    f"the input. {CONSTANT}: even by construction."
)
COLOURS = "PuOr_r"


@as_figures("load", "Load of each expert, by layer", "balance")
def draw(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for each router."""
    ranked = {entry: ranked_loads(study, entry) for entry in study.under(condition)}
    loads = {entry: own for entry, own in ranked.items() if own is not None}
    if not loads:
        raise Lacking(why_without(study, "balance", "loads"))
    depth = max(len(table) for table, _ in loads.values())
    norm = TwoSlopeNorm(1, 0, max(2.0, *(float(table.max()) for table, _ in loads.values())))
    figure, axes = panels(len(loads), 4, PAGE, 0.6 + 0.14 * max(depth, 3))
    for (entry, (table, n)), place in zip(loads.items(), axes, strict=True):
        place.imshow(table, cmap=COLOURS, norm=norm, aspect="auto", interpolation="nearest")
        mark = CONSTANT if study.is_constant("load_cv", entry) else ""
        place.set_title(folded(f"{entry.router}{mark} (n={n})", 24))
        layers, experts = table.shape
        place.yaxis.set_major_locator(FixedLocator(range(0, layers, max(1, layers // 6))))
        place.set_xticks([0, experts - 1], ["most", "least"])
    figure.supxlabel("experts by load", fontsize=7.5)
    figure.supylabel("MoE layer", fontsize=7.5)
    colour_bar(figure, axes, norm, COLOURS, "load / mean load")
    return CAPTION, figure, loads


def ranked_loads(study: StudyData, entry: Entry) -> tuple[np.ndarray, int] | None:
    """(layers, E) mean over seeds of the loads, largest first, over their mean; and the seeds."""
    layers: dict[int, list[np.ndarray]] = defaultdict(list)
    for record in study.array("load", entry):
        counts = np.sort(np.asarray(record.values, dtype=float))[::-1]
        layers[record.layer or 0].append(counts / max(counts.mean(), 1e-12))
    if not layers:
        return None
    table = np.stack([np.mean(layers[layer], axis=0) for layer in sorted(layers)])
    return table, min(len(seeds) for seeds in layers.values())
