"""Heat maps of classes by experts: of each router's last MoE layer, in one run."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.entries import Entry
from report.figures.canvas import PAGE, colour_bar, folded, panels, style
from report.figures.glyphs import lacking
from report.study import StudyData
from results import ArrayRecord

COLUMNS = 4
NAMED, LONGEST = 20, 12
"""Classes that are shown by name, at most, and letters of a name."""


def last_layer(study: StudyData, name: str, entry: Entry, **where: Any) -> ArrayRecord | None:
    """The array of that name of the last MoE layer and the first seed; None where that has none."""
    records = study.array(name, entry, **where)
    own = [r for r in study.arrays if (r.router, r.condition) == (entry.router, entry.condition)]
    last = max((record.layer or 0 for record in own), default=0)
    return next((record for record in records if (record.layer or 0) == last), None)


def seeds_of(records: dict[Entry, ArrayRecord]) -> str:
    """Which run each panel shows: `seed 0`, or each router's where they differ."""
    seeds = {entry.router: f"seed {record.seed}" for entry, record in records.items()}
    if len(set(seeds.values())) == 1:
        return next(iter(seeds.values()))
    return ", ".join(f"{router} {seed}" for router, seed in seeds.items())


def class_names(study: StudyData, records: dict[Entry, ArrayRecord]) -> list[str]:
    """Names of the classes by label, as the suite that made the records tells them.

    Empty where they are unknown, many or not the same.
    """
    found = {
        tuple(map(str, told.values))
        for entry, record in records.items()
        for told in study.array("class_names", entry)
        if told.suite == record.suite
    }
    names = found.pop() if len(found) == 1 else ()
    return list(names) if len(names) <= NAMED else []


def sentence_on_names(names: list[str]) -> str:
    """The names that no installed font can write, by the number that stands for them; or ""."""
    told = [f"{label} is {name}" for label, name in enumerate(names) if lacking(name)]
    return f" No installed font has the names of some classes: {', '.join(told)}." if told else ""


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
    """A panel for each (classes, E) table; `names` of the classes may be empty."""
    with style():
        shown = [_shown(label, name) for label, name in enumerate(names)]
        figure, axes = panels(len(tables), COLUMNS, PAGE, max(1.75, 0.6 + 0.125 * len(names)))
        for number, ((entry, table), place) in enumerate(zip(tables.items(), axes, strict=True)):
            place.imshow(table, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
            place.set_title(folded(entry.router))
            place.set_xticks([])
            _label_classes(place, shown, first=number % COLUMNS == 0)
        figure.supxlabel("experts, in order", fontsize=7.5)
        if not names:
            figure.supylabel("class", fontsize=7.5)
        colour_bar(figure, axes, norm, colours, label)
    return figure


def _label_classes(place: Axes, names: list[str], first: bool) -> None:
    """By number, or by name beside the first panel of each row."""
    if names:
        place.set_yticks(range(len(names)) if first else [], names if first else [])
    else:
        place.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _shown(label: int, name: str) -> str:
    """The name of a class beside its row: shortened, or its number where no font can write it."""
    if lacking(name):
        return f"class {label}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
