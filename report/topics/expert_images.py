"""The images that weigh each expert most, in each router's last MoE layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from report.cells import why_without
from report.conditions import ANY, Entry
from report.study import StudyData
from report.style import PAGE, Drawing, folded, panels, style
from report.table import Absent, file_name, title
from report.topics.specialization import of_last_layer, seeds_of
from results import ArrayRecord

FIGURE, FIGURE_TITLE = "expert_images", "Images that weigh each expert most"
FIGURE_CAPTION = (
    "Each row: the images of the test split whose tokens give an expert of the last MoE layer the "
    "most combine weight in all, from the left. The {rows} most used experts, the most used on "
    "top, by their number. One run each (n = 1: {seeds})."
)
ROUTERS, COLUMNS, ROWS = 8, 4, 8
"""Panels of a figure at most, panels in a row, experts of a panel."""
GAP = 0.1
"""Between thumbnails, over their height."""


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw figures of a few routers each, a panel for each router, for each condition."""
    for condition in study.conditions or [ANY]:
        records = of_last_layer(study, condition, "top_images")
        heading = title(FIGURE_TITLE, condition)
        if not records:
            why = why_without(study, "specialization", "images")
            yield Absent(file_name(FIGURE, condition), heading, why)
        for start in range(0, len(records), ROUTERS):
            several = f" {start // ROUTERS + 1}" if start else ""
            chosen = dict(list(records.items())[start : start + ROUTERS])
            caption = FIGURE_CAPTION.format(rows=ROWS, seeds=seeds_of(chosen))
            name = file_name(FIGURE, f"{condition}{several}")
            figure = _figure(study, chosen)
            yield Drawing(name, heading + several, caption, figure, tuple(chosen))


def mosaic(thumbnails: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Draw one picture of all thumbnails, white between them and where there is none.

    Args:
        thumbnails: uint8 (experts, k, c, h, w).
        there: bool (experts, k).

    Returns:
        uint8 (experts · (h + gap), k · (w + gap), 3); channels other than three are averaged.
    """
    experts, k, channels, height, width = thumbnails.shape
    colours = thumbnails if channels == 3 else thumbnails.mean(2, keepdims=True)
    gap = max(1, round(GAP * height))
    paper = np.full((experts, k, height + gap, width + gap, 3), 255, dtype=np.uint8)
    paper[:, :, :height, :width] = np.moveaxis(colours, 2, -1)
    paper[~there] = 255
    whole: np.ndarray = paper.swapaxes(1, 2).reshape(experts * (height + gap), -1, 3)
    return whole


def _figure(study: StudyData, records: dict[Entry, ArrayRecord]) -> Figure:
    rows = max(len(record.values[:ROWS]) for record in records.values())
    with style():
        figure, axes = panels(len(records), COLUMNS, PAGE, 0.45 + 0.25 * rows)
        for (entry, record), place in zip(records.items(), axes, strict=True):
            numbers, labels = (
                _beside(study, name, entry, record)
                for name in ("top_image_experts", "top_image_labels")
            )
            thumbnails = record.values[:ROWS]
            picture = mosaic(thumbnails, labels[:ROWS] >= 0)
            place.imshow(picture, interpolation="nearest", aspect="equal")
            place.set_title(folded(entry.router))
            step = picture.shape[0] / len(thumbnails)
            middles = (np.arange(len(thumbnails)) + 0.5) * step - 0.5
            place.set_yticks(middles, [str(number) for number in numbers[:ROWS]])
            place.set_xticks([])
            place.tick_params(length=0)
            place.spines[:].set_visible(False)
        figure.supylabel("expert", fontsize=7.5)
    return figure


def _beside(study: StudyData, name: str, entry: Entry, record: ArrayRecord) -> np.ndarray:
    """Return the array of that name of the same layer and run."""
    found = study.array(name, entry)
    return next(a.values for a in found if (a.layer, a.seed) == (record.layer, record.seed))
