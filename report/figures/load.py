"""The load of each expert, by MoE layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from report.entries import ANY, Entry
from report.figures.canvas import PAGE, Drawing, colour_bar, folded, panels, style
from report.parts import Absent, file_name, title
from report.study import StudyData
from report.tables.cells import why_without
from report.tables.table import CONSTANT

NAME, TITLE = "load", "Load of each expert, by layer"
CAPTION = (
    "Load over the test split (tokens that an expert processed, after dropping) over the mean of "
    "its layer: 1 is even. Experts are ranked by load within each run and layer, since an expert's "
    "number means nothing across seeds; cells are means over the n seeds. Rows: MoE layers from "
    f"the input. {CONSTANT}: even by construction."
)
MAP = "PuOr_r"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure for each condition, a panel for each router."""
    for condition in study.conditions or [ANY]:
        found = {entry: ranked_loads(study, entry) for entry in study.under(condition)}
        loads = {entry: ranked for entry, ranked in found.items() if ranked is not None}
        name, heading = file_name(NAME, condition), title(TITLE, condition)
        if not loads:
            yield Absent(name, heading, why_without(study, "balance", "loads"))
            continue
        yield Drawing(name, heading, CAPTION, _figure(study, loads), tuple(loads))


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
