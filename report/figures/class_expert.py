"""Which experts serve which classes: the class × expert table of each router's last MoE layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.colors import Normalize

from report.entries import ANY
from report.figures.canvas import Drawing
from report.figures.class_maps import (
    by_top_class,
    class_names,
    draw_maps,
    last_layer,
    seeds_of,
    sentence_on_names,
)
from report.parts import Absent, file_name, title
from report.study import StudyData
from report.tables.cells import why_without

NAME, TITLE = "class_expert", "Classes and experts"
CAPTION = (
    "Share of each class's tokens that goes to each expert (by the combine weights; rows sum to 1) "
    "in the last MoE layer, over the test split. One run each (n = 1: {seeds}), since an expert's "
    "number means nothing across seeds. Experts are ordered by the class that they serve most."
)
MAP = "YlGnBu"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure for each condition, a panel for each router."""
    for condition in study.conditions or [ANY]:
        found = {
            entry: last_layer(study, "class_expert", entry, of="combine", kind="soft")
            for entry in study.under(condition)
        }
        records = {entry: record for entry, record in found.items() if record is not None}
        name, heading = file_name(NAME, condition), title(TITLE, condition)
        if not records:
            yield Absent(
                name, heading, why_without(study, "entropy", "tables of classes and experts")
            )
            continue
        drawn = {e: shares(np.asarray(r.values, dtype=float)) for e, r in records.items()}
        norm = Normalize(0, max(float(table.max()) for table in drawn.values()))
        names = class_names(study, records)
        figure = draw_maps(drawn, names, norm, MAP, "share of the class")
        caption = CAPTION.format(seeds=seeds_of(records)) + sentence_on_names(names)
        yield Drawing(name, heading, caption, figure, tuple(records))


def shares(table: np.ndarray) -> np.ndarray:
    """(classes, E) with rows that sum to 1, experts ordered by the class that they serve most."""
    return by_top_class(table / np.maximum(table.sum(1, keepdims=True), 1e-12))
