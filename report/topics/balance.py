"""How the routers routed: balance, balance by layer, and entropy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from report.cells import INTERVALS, LEAD, lead, measured, metric_cell, why_unmeasured, why_without
from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, Drawing, colour_bar, folded, panels, style
from report.table import CONSTANT, Absent, Column, Row, Table, assemble, words

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
ENTROPY = (
    ("H_s", "soft", Column("H_s", "H_s", "bit")),
    ("H_u", "soft", Column("H_u", "H_u", "bit")),
    ("H_u", "hard", Column("H_u_hard", "H_u hard", "bit")),
    ("MI_label", "soft", Column("MI_label", "I(E;Y)", "bit", digits=3)),
    ("MI_label_corrected", "soft", Column("MI_label_corrected", "I(E;Y) corr.", "bit", digits=3)),
    ("MI_label_normalised", "soft", Column("MI_label_normalised", "I(E;Y) norm.", digits=3)),
    ("MI_label_normalised", "hard", Column("MI_label_normalised_hard", "norm., hard", digits=3)),
    ("MI_prediction_corrected", "soft", Column("MI_prediction", "I(E;Ŷ) corr.", "bit", digits=3)),
)
OF = {"gates": "gates (wanted)", "combine": "combine weights (done)"}


def balance(study: StudyData) -> Table | Absent:
    """Make a row for each router and condition: means over the MoE layers."""
    name, title = "balance", "Balance of the experts"
    entries = measured(study, "balance")
    if not entries:
        return Absent(name, title, why_unmeasured(study, "balance"))
    rows = []
    for entry in entries:
        n = len(study.final("experts_per_token_mean", entry))
        cells = [metric_cell(study, column.key, entry) for column in BALANCE]
        rows.append(Row((*lead(study, entry, n), *cells), n, entry))
    caption = (
        f"Over the test split at the end of training, mean over the MoE layers. {INTERVALS} "
        "Demand: tokens that want an expert, before dropping; load: tokens that it processes. CV: "
        "population std over mean; load entropy: over log2 E (1 is even); dead: experts below 1 % "
        "of the mean load; dropped: choices of tokens that were lost to capacity; uncovered: "
        "tokens that no expert processed; capacity: slots of an expert in a group."
    )
    return assemble(name, title, caption, (*LEAD, *BALANCE), rows)


def balance_by_layer(study: StudyData) -> Table | Absent:
    """Make a row for each router, condition and MoE layer."""
    name, title = "balance_by_layer", "Balance, layer by layer"
    columns = [column for column in BALANCE if column.key in BY_LAYER]
    rows = []
    for entry in measured(study, "balance"):
        for layer in study.layers("load_cv", entry):
            values = {column.key: study.final(column.key, entry, layer=layer) for column in columns}
            n = max(map(len, values.values()))
            cells = [metric_cell(study, key, entry, layer=layer) for key in values]
            rows.append(Row((*lead(study, entry, n), words(str(layer)), *cells), n, entry))
    if not rows:
        return Absent(name, title, why_unmeasured(study, "balance"))
    caption = f"MoE layers in network order, from 0. {INTERVALS}"
    head = (*LEAD, Column("layer", "layer", words=True))
    return assemble(name, title, caption, (*head, *columns), rows)


def entropy(study: StudyData) -> Table | Absent:
    """Make two rows for each router and condition: what the router wanted, and what it did."""
    name, title = "entropy", "Entropy and mutual information"
    entries = measured(study, "entropy")
    if not entries:
        return Absent(name, title, why_unmeasured(study, "entropy"))
    rows = []
    for entry in entries:
        for of, label in OF.items():
            cells = [
                metric_cell(study, metric, entry, of=of, kind=kind) for metric, kind, _ in ENTROPY
            ]
            n = max((cell.n or 0 for cell in cells), default=0)
            rows.append(Row((*lead(study, entry, n), words(label), *cells), n, entry))
    caption = (
        f"Over the tokens of the test split, mean over the MoE layers. {INTERVALS} "
        "H_s: mean entropy of a token's distribution over experts (0: decided); H_u: entropy of "
        "the mean distribution (log2 E: even use); I(E;Y): mutual information of expert and class, "
        "corrected by its mean over permutations, normalised by min(H(E), H(Y)); Ŷ: the predicted "
        "class. hard: by the largest weight alone. No direction is better."
    )
    columns = (*LEAD, Column("of", "of", words=True), *(column for *_, column in ENTROPY))
    return assemble(name, title, caption, columns, rows)


FIGURE, FIGURE_TITLE = "load", "Load of each expert, by layer"
FIGURE_CAPTION = (
    "Load over the test split (tokens that an expert processed, after dropping) over the mean of "
    "its layer: 1 is even. Experts are ranked by load within each run and layer, since an expert's "
    "number means nothing across seeds; cells are means over the n seeds. Rows: MoE layers from "
    f"the input. {CONSTANT}: even by construction."
)
MAP = "PuOr_r"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition, a panel for each router."""
    for name, heading, condition in study.by_condition(FIGURE, FIGURE_TITLE):
        found = {entry: ranked_loads(study, entry) for entry in study.under(condition)}
        loads = {entry: ranked for entry, ranked in found.items() if ranked is not None}
        if not loads:
            yield Absent(name, heading, why_without(study, "balance", "loads"))
            continue
        yield Drawing(name, heading, FIGURE_CAPTION, _figure(study, loads), tuple(loads))


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


def _figure(study: StudyData, loads: dict[Entry, tuple[np.ndarray, int]]) -> Figure:
    depth = max(len(table) for table, _ in loads.values())
    norm = TwoSlopeNorm(1, 0, max(2.0, *(float(table.max()) for table, _ in loads.values())))
    with style():
        figure, axes = panels(len(loads), 4, PAGE, 0.6 + 0.14 * max(depth, 3))
        for (entry, (table, n)), place in zip(loads.items(), axes, strict=True):
            place.imshow(table, cmap=MAP, norm=norm, aspect="auto", interpolation="nearest")
            mark = CONSTANT if study.is_constant("load_cv", entry) else ""
            place.set_title(folded(f"{entry.router}{mark} (n={n})", 24))
            layers, experts = table.shape
            place.yaxis.set_major_locator(FixedLocator(range(0, layers, max(1, layers // 6))))
            place.set_xticks([0, experts - 1], ["most", "least"])
        figure.supxlabel("experts by load", fontsize=7.5)
        figure.supylabel("MoE layer", fontsize=7.5)
        colour_bar(figure, axes, norm, MAP, "load / mean load")
    return figure
