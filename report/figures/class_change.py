"""What each class loses when an expert is switched off, in each router's last MoE layer."""

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

NAME, TITLE = "class_change", "What each class loses without an expert"
CAPTION = (
    "Accuracy of each class with all experts less that with one expert of the last MoE layer "
    "switched off, in points, on the test split: above 0, the class needs the expert. One run each "
    "(n = 1: {seeds}), since an expert's number means nothing across seeds. Experts are ordered by "
    "the class that loses most, those that none needs last; those not switched off are left out."
)
MAP = "PuOr"


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """One figure for each condition, a panel for each router."""
    for condition in study.conditions or [ANY]:
        found = {e: last_layer(study, "accuracy_change", e) for e in study.under(condition)}
        records = {entry: record for entry, record in found.items() if record is not None}
        name, heading = file_name(NAME, condition), title(TITLE, condition)
        if not records:
            yield Absent(name, heading, why_without(study, "specialization", "changes of accuracy"))
            continue
        drawn = {entry: points(record.values) for entry, record in records.items()}
        largest = max(float(np.nanmax(abs(table))) for table in drawn.values())
        norm = Normalize(-max(largest, 1.0), max(largest, 1.0))
        names = class_names(study, records)
        figure = draw_maps(drawn, names, norm, MAP, "accuracy lost (points)")
        caption = CAPTION.format(seeds=seeds_of(records)) + sentence_on_names(names)
        yield Drawing(name, heading, caption, figure, tuple(records))


def points(changes: np.ndarray) -> np.ndarray:
    """(E, classes) shares to (classes, E) points, ordered; without experts that were left out."""
    switched_off = changes[~np.isnan(changes).all(1)]
    return by_top_class(np.nan_to_num(100 * switched_off.T))
