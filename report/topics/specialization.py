"""Specialization of experts: the accuracy lost when each is switched off."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.axes import colour_bar
from report.cells import (
    INTERVALS,
    LEAD,
    measured_by,
    metric_cell,
    metric_row,
    stands_under,
    why_without,
)
from report.conditions import ANY, Entry
from report.study import StudyData
from report.style import PAGE, folded, lacking, panels
from report.table import Column, Lacking, captioned, file_name, title
from report.topics.make import Contents, Named, Sketch, as_figures, as_named_figures, as_table
from results import ArrayRecord
from results.conditions import Condition

COLUMNS = (
    Column("polysemanticity", "polysemanticity", "", "lower", digits=3, ranked=True),
    Column("experts_with_effect", "with effect", "%", scale=100, digits=1),
    Column("largest_drop", "largest drop", "points", scale=100, digits=1),
    Column("accuracy_drop", "accuracy drop", "points", scale=100),
    Column("experts_left_out", "left out", digits=1),
    Column("passes", "passes", "%", scale=100, digits=1),
)


@as_table("specialization", "What classes lose without an expert", "specialization")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition: means over the MoE layers."""
    under, rows = stands_under(study), []
    for entry in measured_by(study, "specialization"):
        cells = [metric_cell(study, column.key, entry) for column in COLUMNS]
        rows.append(metric_row(study, entry, cells, under=under[entry]))
    caption = captioned(
        "Over the test split at the end of training, mean over the MoE layers; experts are "
        f"switched off one by one, and nothing is rerouted. {INTERVALS}",
        "Polysemanticity: distance between d / length of d and the one-hot vector of its largest "
        "entry, where d is the accuracy that each class loses without the expert (0: the expert "
        "serves one class); mean over the experts with an effect. Largest drop: of the class that "
        "loses most, mean over the same. Accuracy drop: mean over the experts switched off; left "
        "out: those that were not. Passes: images run again, as a share of a pass per expert.",
    )
    return caption, (*LEAD, *COLUMNS), rows


MAP_COLUMNS = 4
NAMED, LONGEST = 20, 12
"""The most classes that are shown by name, and the most letters of a name."""


def of_last_layer(
    study: StudyData, condition: Condition, name: str, **where: Any
) -> dict[Entry, ArrayRecord]:
    """Return the array of the last MoE layer and first seed, for each entry that has one."""
    records = {}
    for entry in study.under(condition):
        last = max((record.layer or 0 for record in study.arrays.get(entry, [])), default=0)
        own = [each for each in study.array(name, entry, **where) if (each.layer or 0) == last]
        if own:
            records[entry] = own[0]
    return records


def seeds_of(records: dict[Entry, ArrayRecord]) -> str:
    """Return the seed that panels show: `seed 0`, or each router's seed if they differ."""
    seeds = {entry.system: f"seed {record.seed}" for entry, record in records.items()}
    listed = ", ".join(f"{system} {seed}" for system, seed in seeds.items())
    return listed if len(set(seeds.values())) > 1 else next(iter(seeds.values()))


def class_names(study: StudyData, records: dict[Entry, ArrayRecord]) -> list[str]:
    """Return the names of the classes by label, as recorded by the suite that made the records.

    Empty if they are unknown, too many, or not the same for all.
    """
    lists = {
        tuple(map(str, listed.values))
        for entry, record in records.items()
        for listed in study.array("class_names", entry)
        if listed.suite == record.suite
    }
    names = lists.pop() if len(lists) == 1 else ()
    return list(names) if len(names) <= NAMED else []


def sentence_on_names(names: list[str]) -> str:
    """Explain the numbers shown instead of names that no installed font has, or return ""."""
    without = ", ".join(f"{label} is {name}" for label, name in enumerate(names) if lacking(name))
    return f"No installed font has the names of some classes: {without}." if without else ""


def by_top_class(table: np.ndarray) -> np.ndarray:
    """Sort the experts of a (classes, E) table by their largest class, largest entry first.

    Experts without an entry above 0 come last.
    """
    largest = table.max(0)
    top = np.where(largest > 0, table.argmax(0), len(table))
    ordered: np.ndarray = table[:, np.lexsort((-largest, top))]
    return ordered


def draw_maps(
    tables: dict[Entry, np.ndarray],
    names: list[str],
    norm: Normalize,
    colours: str,
    label: str,
    sizes: dict[Entry, np.ndarray] | None = None,
) -> Figure:
    """Draw a panel for each (classes, E) table; `names` of the classes may be empty.

    Classes are labelled by number, or by name beside the first panel of each row; experts by their
    numbers of parameters if `sizes` are given.
    """
    shown = [_shown(label, name) for label, name in enumerate(names)]
    figure, axes = panels(len(tables), MAP_COLUMNS, PAGE, max(1.75, 0.6 + 0.125 * len(names)))
    for number, ((entry, table), place) in enumerate(zip(tables.items(), axes, strict=True)):
        place.imshow(table, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        place.set_title(folded(entry.label))
        own: np.ndarray | list[int] = (sizes or {}).get(entry, [])
        place.set_xticks(range(len(own)), [f"{size:,}" for size in sorted(own)])
        if not names:
            place.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        elif number % MAP_COLUMNS:
            place.set_yticks([], [])
        else:
            place.set_yticks(range(len(names)), shown)
    figure.supxlabel("experts, in order", fontsize=7.5)
    if not names:
        figure.supylabel("class", fontsize=7.5)
    colour_bar(figure, axes, norm, colours, label)
    return figure


def _shown(label: int, name: str) -> str:
    """Return the label of a class: its name, shortened, or its number if no font has the name."""
    if lacking(name):
        return f"class {label}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


CHANGE_CAPTION = (
    "Accuracy of each class with all experts minus that with one expert of the last MoE layer "
    "switched off, in points, on the test split: above 0, the class needs the expert. One run each "
    "(n = 1: {seeds}), since an expert's number means nothing across seeds. Experts are ordered by "
    "the class that loses most, unneeded ones last; those not switched off are left out."
)


@as_figures("class_change", "What each class loses without an expert", "specialization")
def draw_change(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for each router."""
    records = of_last_layer(study, condition, "accuracy_change")
    if not records:
        raise Lacking(why_without(study, "specialization", "changes of accuracy"))
    drawn = {entry: points(record.values) for entry, record in records.items()}
    largest = max(1.0, *(float(np.nanmax(abs(table))) for table in drawn.values()))
    names = class_names(study, records)
    norm = Normalize(-largest, largest)
    figure = draw_maps(drawn, names, norm, "PuOr", "accuracy lost (points)")
    caption = captioned(CHANGE_CAPTION.format(seeds=seeds_of(records)), sentence_on_names(names))
    return caption, figure, records


def points(changes: np.ndarray) -> np.ndarray:
    """Turn (E, classes) shares into ordered (classes, E) points, without experts left out."""
    switched_off = changes[~np.isnan(changes).all(1)]
    return by_top_class(np.nan_to_num(100 * switched_off.T))


SERVED_CAPTION = (
    "Share of each class's tokens that goes to each expert (by the combine weights; rows sum to 1) "
    "in the last MoE layer, over the test split. One run each (n = 1: {seeds}), since an expert's "
    "number means nothing across seeds. Experts are ordered by the class that they serve most."
)


@as_figures("class_expert", "Classes and experts", "entropy")
def draw_served(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for each router."""
    records = of_last_layer(study, condition, "class_expert", of="combine", kind="soft")
    if not records:
        raise Lacking(why_without(study, "entropy", "tables of classes and experts"))
    sizes = {e: r.values for e, r in of_last_layer(study, condition, "expert_sizes").items()}
    drawn = {e: shares(np.asarray(r.values, dtype=float), sizes.get(e)) for e, r in records.items()}
    norm = Normalize(0, max(float(table.max()) for table in drawn.values()))
    names = class_names(study, records)
    figure = draw_maps(drawn, names, norm, "YlGnBu", "share of the class", sizes)
    by_size = "Experts of different sizes are ordered by size and labelled by their parameters."
    summary = SERVED_CAPTION.format(seeds=seeds_of(records))
    caption = captioned(summary, by_size if sizes else "", sentence_on_names(names))
    return caption, figure, records


def shares(table: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """Normalise the rows of a (classes, E) table to sum to 1, and order its experts.

    They are ordered by the class that they serve most, or by their `sizes`, (E,), if given.
    """
    of_class: np.ndarray = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    if sizes is None:
        return by_top_class(of_class)
    return of_class[:, np.argsort(sizes, kind="stable")]


IMAGES, IMAGES_TITLE = "expert_images", "Images that weigh each expert most"
IMAGES_CAPTION = (
    "Each row: the images of the test split whose tokens give an expert of the last MoE layer the "
    "most combine weight in total, from the left. The {rows} most used experts, the most used at "
    "the top, by their number. One run each (n = 1: {seeds})."
)
ROUTERS, COLUMNS_OF_IMAGES, ROWS = 8, 4, 8
"""The most panels in a figure, panels in a row, and experts in a panel."""
GAP = 0.1
"""The space between thumbnails, as a share of their height."""


@as_named_figures(IMAGES, IMAGES_TITLE, "specialization")
def draw_images(study: StudyData) -> Iterator[Named]:
    """Draw, for each condition, figures of a few routers each, with a panel per router."""
    for condition in study.conditions or [ANY]:
        records = list(of_last_layer(study, condition, "top_images").items())
        for start in range(0, max(len(records), 1), ROUTERS):
            several = f" {start // ROUTERS + 1}" if start else ""
            name = file_name(IMAGES, f"{condition}{several}")
            chosen = dict(records[start : start + ROUTERS])
            yield name, title(IMAGES_TITLE, condition) + several, partial(_images, study, chosen)


def mosaic(thumbnails: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return one picture of all thumbnails, white between them and in empty places.

    Args:
        thumbnails: uint8 (experts, k, c, h, w).
        there: bool (experts, k), whether a thumbnail exists.

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


def _images(study: StudyData, records: dict[Entry, ArrayRecord]) -> Sketch:
    if not records:
        raise Lacking(why_without(study, "specialization", "images"))
    rows = max(len(record.values[:ROWS]) for record in records.values())
    figure, axes = panels(len(records), COLUMNS_OF_IMAGES, PAGE, 0.45 + 0.25 * rows)
    for (entry, record), place in zip(records.items(), axes, strict=True):
        numbers, labels = (
            next(
                other.values
                for other in study.array(name, entry)
                if (other.layer, other.seed) == (record.layer, record.seed)
            )
            for name in ("top_image_experts", "top_image_labels")
        )
        thumbnails = record.values[:ROWS]
        picture = mosaic(thumbnails, labels[:ROWS] >= 0)
        place.imshow(picture, interpolation="nearest", aspect="equal")
        place.set_title(folded(entry.label))
        step = picture.shape[0] / len(thumbnails)
        middles = (np.arange(len(thumbnails)) + 0.5) * step - 0.5
        place.set_yticks(middles, [str(number) for number in numbers[:ROWS]])
        place.set_xticks([])
        place.tick_params(length=0)
        place.spines[:].set_visible(False)
    figure.supylabel("expert", fontsize=7.5)
    return IMAGES_CAPTION.format(rows=ROWS, seeds=seeds_of(records)), figure, records
