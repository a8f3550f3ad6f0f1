"""Which experts serve which classes: the class × expert table of each router's last MoE layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.entries import Entry
from report.figures.canvas import PAGE, Drawing, colour_bar, folded, panels, style
from report.parts import Absent, file_name, title
from report.study import StudyData
from results import ArrayRecord

NAME, TITLE = "class_expert", "Classes and experts"
CAPTION = (
    "Share of each class's tokens that goes to each expert (by the combine weights; rows sum to 1) "
    "in the last MoE layer, over the test split. One run each (n = 1: {seeds}), since an expert's "
    "number means nothing across seeds. Experts are ordered by the class that they serve most."
)
MAP = "YlGnBu"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure for each condition, a panel for each router."""
    for condition in study.conditions or [""]:
        found = {entry: last_table(study, entry) for entry in study.under(condition)}
        tables = {entry: record for entry, record in found.items() if record is not None}
        name, heading = file_name(NAME, condition), title(TITLE, condition)
        if not tables:
            yield Absent(name, heading, "no finished trial has its tables (suite entropy)")
            continue
        yield Drawing(name, heading, CAPTION.format(seeds=_seeds(tables)), _figure(tables))


def last_table(study: StudyData, entry: Entry) -> ArrayRecord | None:
    """The (classes, E) table of the last layer and the first seed."""
    records = study.array("class_expert", entry, of="combine", kind="soft")
    last = max((record.layer or 0 for record in records), default=0)
    return next((record for record in records if (record.layer or 0) == last), None)


def shares(table: np.ndarray) -> np.ndarray:
    """(classes, E) with rows that sum to 1, experts ordered by the class that they serve most."""
    rows = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    order = np.lexsort((-rows.max(0), rows.argmax(0)))
    ordered: np.ndarray = rows[:, order]
    return ordered


def _figure(tables: dict[Entry, ArrayRecord]) -> Figure:
    drawn = {entry: shares(np.asarray(r.values, dtype=float)) for entry, r in tables.items()}
    norm = Normalize(0, max(float(table.max()) for table in drawn.values()))
    with style():
        figure, axes = panels(len(drawn), 4, PAGE, 1.75)
        for (entry, table), place in zip(drawn.items(), axes, strict=True):
            place.imshow(table, cmap=MAP, norm=norm, aspect="auto", interpolation="nearest")
            place.set_title(folded(entry.router))
            for axis in (place.xaxis, place.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True))
        figure.supxlabel("expert", fontsize=7.5)
        figure.supylabel("class", fontsize=7.5)
        colour_bar(figure, axes, norm, MAP, "share of the class")
    return figure


def _seeds(tables: dict[Entry, ArrayRecord]) -> str:
    """Which run each panel shows: `seed 0`, or each router's where they differ."""
    seeds = {entry.router: f"seed {record.seed}" for entry, record in tables.items()}
    if len(set(seeds.values())) == 1:
        return next(iter(seeds.values()))
    return ", ".join(f"{router} {seed}" for router, seed in seeds.items())
