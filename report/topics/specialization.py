"""What the experts are for: what is lost when each is switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.cells import (
    BEST,
    INTERVALS,
    LEAD,
    lead,
    measured,
    metric_cell,
    stands_under,
    why_unmeasured,
    why_without,
)
from report.conditions import Entry
from report.glyphs import lacking
from report.study import StudyData
from report.style import PAGE, Drawing, colour_bar, folded, panels, style
from report.table import Absent, Column, Row, Table, assemble
from results import ArrayRecord
from results.conditions import Condition

NAME, TITLE = "specialization", "What classes lose without an expert"
COLUMNS = (
    Column("polysemanticity", "polysemanticity", "", "lower", digits=3, ranked=True),
    Column("experts_with_effect", "with effect", "%", scale=100, digits=1),
    Column("largest_drop", "largest drop", "points", scale=100, digits=1),
    Column("accuracy_drop", "accuracy drop", "points", scale=100),
    Column("experts_left_out", "left out", digits=1),
    Column("passes", "passes", "%", scale=100, digits=1),
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each router and condition: means over the MoE layers."""
    entries = measured(study, "specialization")
    if not entries:
        return Absent(NAME, TITLE, why_unmeasured(study, "specialization"))
    rows, under = [], stands_under(study)
    for entry in entries:
        n = len(study.final("experts_with_effect", entry))
        cells = [metric_cell(study, column.key, entry) for column in COLUMNS]
        rows.append(Row((*lead(study, entry, n), *cells), n, entry, under[entry]))
    caption = (
        "Over the test split at the end of training, mean over the MoE layers; experts are "
        f"switched off one by one, and nothing is routed anew. {INTERVALS} Polysemanticity: "
        "distance between d / length of d and the one-hot vector of its largest entry, where d is "
        "the accuracy that each class loses without the expert (0: the expert serves one class); "
        "mean over the experts with an effect. Largest drop: of the class that loses most, mean "
        "over the same. Accuracy drop: mean over the experts switched off; left out: those that "
        f"were not. Passes: images run again, of one pass for each expert. {BEST}"
    )
    return assemble(NAME, TITLE, caption, (*LEAD, *COLUMNS), rows)


MAP_COLUMNS = 4
NAMED, LONGEST = 20, 12
"""Classes that are shown by name, at most, and letters of a name."""


def of_last_layer(
    study: StudyData, condition: Condition, name: str, **where: Any
) -> dict[Entry, ArrayRecord]:
    """Find the array of the last MoE layer and the first seed, of each entry that has one."""
    records = {}
    for entry in study.under(condition):
        last = max((record.layer or 0 for record in study.arrays.get(entry, [])), default=0)
        own = [each for each in study.array(name, entry, **where) if (each.layer or 0) == last]
        if own:
            records[entry] = own[0]
    return records


def seeds_of(records: dict[Entry, ArrayRecord]) -> str:
    """Say which run each panel shows: `seed 0`, or each router's where they differ."""
    seeds = {entry.router: f"seed {record.seed}" for entry, record in records.items()}
    if len(set(seeds.values())) == 1:
        return next(iter(seeds.values()))
    return ", ".join(f"{router} {seed}" for router, seed in seeds.items())


def class_names(study: StudyData, records: dict[Entry, ArrayRecord]) -> list[str]:
    """Return names of the classes by label, as the suite that made the records gave them.

    Empty where they are unknown, many or not the same.
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
    """Explain the numbers that stand for names that no installed font can write; or ""."""
    without = [f"{label} is {name}" for label, name in enumerate(names) if lacking(name)]
    return (
        f" No installed font has the names of some classes: {', '.join(without)}."
        if without
        else ""
    )


def by_top_class(table: np.ndarray) -> np.ndarray:
    """(classes, E) with the experts ordered by their largest class, the largest entry first.

    Experts that have nothing above 0 come last.
    """
    largest = table.max(0)
    top = np.where(largest > 0, table.argmax(0), len(table))
    ordered: np.ndarray = table[:, np.lexsort((-largest, top))]
    return ordered


def draw_maps(
    tables: dict[Entry, np.ndarray], names: list[str], norm: Normalize, colours: str, label: str
) -> Figure:
    """Draw a panel for each (classes, E) table; `names` of the classes may be empty."""
    with style():
        shown = [_shown(label, name) for label, name in enumerate(names)]
        figure, axes = panels(len(tables), MAP_COLUMNS, PAGE, max(1.75, 0.6 + 0.125 * len(names)))
        for number, ((entry, table), place) in enumerate(zip(tables.items(), axes, strict=True)):
            place.imshow(table, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
            place.set_title(folded(entry.router))
            place.set_xticks([])
            _label_classes(place, shown, first=number % MAP_COLUMNS == 0)
        figure.supxlabel("experts, in order", fontsize=7.5)
        if not names:
            figure.supylabel("class", fontsize=7.5)
        colour_bar(figure, axes, norm, colours, label)
    return figure


def _label_classes(place: Axes, names: list[str], first: bool) -> None:
    """Label classes by number, or by name beside the first panel of each row."""
    if names:
        place.set_yticks(range(len(names)) if first else [], names if first else [])
    else:
        place.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _shown(label: int, name: str) -> str:
    """Name a class beside its row: shortened, or by number where no font can write it."""
    if lacking(name):
        return f"class {label}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


CHANGE, CHANGE_TITLE = "class_change", "What each class loses without an expert"
CHANGE_CAPTION = (
    "Accuracy of each class with all experts less that with one expert of the last MoE layer "
    "switched off, in points, on the test split: above 0, the class needs the expert. One run each "
    "(n = 1: {seeds}), since an expert's number means nothing across seeds. Experts are ordered by "
    "the class that loses most, those that none needs last; those not switched off are left out."
)
CHANGE_MAP = "PuOr"


def draw_change(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition, a panel for each router."""
    for name, heading, condition in study.by_condition(CHANGE, CHANGE_TITLE):
        records = of_last_layer(study, condition, "accuracy_change")
        if not records:
            yield Absent(name, heading, why_without(study, "specialization", "changes of accuracy"))
            continue
        drawn = {entry: points(record.values) for entry, record in records.items()}
        largest = max(float(np.nanmax(abs(table))) for table in drawn.values())
        norm = Normalize(-max(largest, 1.0), max(largest, 1.0))
        names = class_names(study, records)
        figure = draw_maps(drawn, names, norm, CHANGE_MAP, "accuracy lost (points)")
        caption = CHANGE_CAPTION.format(seeds=seeds_of(records)) + sentence_on_names(names)
        yield Drawing(name, heading, caption, figure, tuple(records))


def points(changes: np.ndarray) -> np.ndarray:
    """(E, classes) shares to (classes, E) points, ordered; without experts that were left out."""
    switched_off = changes[~np.isnan(changes).all(1)]
    return by_top_class(np.nan_to_num(100 * switched_off.T))


SERVED, SERVED_TITLE = "class_expert", "Classes and experts"
SERVED_CAPTION = (
    "Share of each class's tokens that goes to each expert (by the combine weights; rows sum to 1) "
    "in the last MoE layer, over the test split. One run each (n = 1: {seeds}), since an expert's "
    "number means nothing across seeds. Experts are ordered by the class that they serve most."
)
SERVED_MAP = "YlGnBu"


def draw_served(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition, a panel for each router."""
    for name, heading, condition in study.by_condition(SERVED, SERVED_TITLE):
        records = of_last_layer(study, condition, "class_expert", of="combine", kind="soft")
        if not records:
            yield Absent(
                name, heading, why_without(study, "entropy", "tables of classes and experts")
            )
            continue
        drawn = {e: shares(np.asarray(r.values, dtype=float)) for e, r in records.items()}
        norm = Normalize(0, max(float(table.max()) for table in drawn.values()))
        names = class_names(study, records)
        figure = draw_maps(drawn, names, norm, SERVED_MAP, "share of the class")
        caption = SERVED_CAPTION.format(seeds=seeds_of(records)) + sentence_on_names(names)
        yield Drawing(name, heading, caption, figure, tuple(records))


def shares(table: np.ndarray) -> np.ndarray:
    """(classes, E) with rows that sum to 1, experts ordered by the class that they serve most."""
    return by_top_class(table / np.maximum(table.sum(1, keepdims=True), 1e-12))
