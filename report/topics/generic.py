"""Suites without a section of their own: their numbers, by the definitions kept in the database.

A user's own suite gets a column in the main table (its main metric), a table with a row for each
router under each condition, a folded table with every layer, and curves of its measurements at
snapshots. The report loads no suite: names, units, directions and meanings are those of its card.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.axes import draw_line, over_seeds
from report.cells import INTERVALS, LEAD, metric_row, sentence_on_analyses, why_unmeasured
from report.conditions import Entry, closest_layer
from report.study import StudyData
from report.style import PAGE, folded, panels, router_legend
from report.table import (
    ARROWS,
    MISSING,
    Cell,
    Column,
    Lacking,
    Row,
    captioned,
    number_of_runs,
    text_columns,
    words,
)
from report.topics.make import Contents, FigureMaker, Section, Sketch, TableMaker, as_figures
from report.topics.suite_numbers import Card, Numbers, Place, Spot, Who, cards
from results.conditions import Condition

SHOWN, EVERY = "suite_", "all_of_"
"""Prefixes of the names of a suite's tables: for the network's numbers, and for all of them."""
MOST_NUMBERS, MOST_CURVES = 12, 6
"""The most numbers side by side (the table of all numbers has the rest), and the most curves."""
LAYERS = text_columns("router", "condition", "machine")
"""The columns that identify the bare layer of a row."""


Headline = tuple[Column, Callable[[Entry], Cell], str]
"""A suite's main metric in the main table: the column, an entry's cell, and a caption."""


def headlines(study: StudyData) -> list[Headline]:
    """Return the main metric of each suite that measured it.

    For bare layers, only the machine with the most of them counts, since machines are never pooled.
    """
    shown = list[Headline]()
    for card in cards(study):
        numbers = Numbers.of(study, card)
        machines = [who.machine for who in numbers.under]
        most = max(dict.fromkeys(machines), key=machines.count, default="")
        on = f", bare layers on {most}" if most else ""
        for place in [place for place in numbers.places if card.is_main(place)][:1]:
            column = numbers.column(place.metric, f"{card.name}.{place.metric}", place.metric)
            meaning = card.definition(place.metric).meaning or card.summary
            sentence = f"{place.label} (suite {card.name}{on}): {meaning}"
            shown.append((column, partial(_headline, numbers, place, most), sentence))
    return shown


def _headline(numbers: Numbers, place: Place, machine: str, entry: Entry) -> Cell:
    """Show the number of an entry or, given a machine, of its bare layer there."""
    layers = [who.entry for who in numbers.under if who.machine == machine]
    own = closest_layer(layers, entry) if machine else entry
    return words(MISSING) if own is None else numbers.cell(Spot(Who(own, machine), None, place))


def sections(study: StudyData) -> Iterator[Section]:
    """Yield a section per suite: the network's numbers, curves, and the numbers of every layer."""
    for card in cards(study):
        numbers = Numbers.of(study, card)
        shown, folded = list[TableMaker | FigureMaker](), list[TableMaker | FigureMaker]()
        name, suites = f"{SHOWN}{card.slug}", (card.name,)
        if numbers.places or not numbers.final:
            heading = f"{card.title} by router"
            shown.append(TableMaker(name, heading, suites, partial(_network, numbers)))
        if len(numbers.snapshots):
            draw = as_figures(name, f"{card.title} along training", *suites)
            shown.append(draw(partial(_curves, numbers)))
        if len(numbers.places) > MOST_NUMBERS or any(s.layer is not None for s in numbers.final):
            name, heading = f"{EVERY}{card.slug}", f"{card.title}, layer by layer"
            folded.append(TableMaker(name, heading, suites, partial(_every, numbers)))
        yield Section(f"suite-{card.slug}", card.title, tuple(shown), tuple(folded))


def _network(numbers: Numbers, study: StudyData) -> Contents:
    """Make a row for each router under each condition and, for bare layers, on each machine."""
    if not numbers.final:
        raise Lacking(why_unmeasured(study, numbers.card.name))
    card, places = numbers.card, numbers.places[:MOST_NUMBERS]
    columns = [numbers.column(place.metric, place.label, place.label) for place in places]
    rows = [
        _row(numbers, who, (), [numbers.cell(Spot(who, None, place)) for place in places])
        for who in numbers.under
    ]
    left_out = len(numbers.places) - len(places)
    caption = captioned(
        f"{card.summary} {_what(numbers)}".strip(),
        f"{left_out} more numbers are in the table of all." if left_out else "",
        _meanings(card, [place.metric for place in places]),
        _analyses(numbers),
    )
    head = LAYERS if numbers.measures_layers else LEAD
    return caption, (*head, *columns), rows


def _every(numbers: Numbers, _: StudyData) -> Contents:
    """Make a row for each router, condition, layer and place, and a column for each metric."""
    card = numbers.card
    ordered = numbers.ordered({spot.place for spot in numbers.final})
    metrics = list(dict.fromkeys(place.metric for place in ordered))
    there = {(spot.who, spot.layer, spot.place.where) for spot in numbers.final}
    rows = []
    for who in numbers.under:
        own = {(layer, where) for other, layer, where in there if other == who}
        for layer, where in sorted(own, key=lambda each: (each[0] is None, each[0] or 0, each[1])):
            spots = [Spot(who, layer, Place(metric, where)) for metric in metrics]
            place = ("all" if layer is None else str(layer), Place("", where).qualifiers)
            rows.append(_row(numbers, who, place, [numbers.cell(spot) for spot in spots]))
    columns = [replace(numbers.column(name, name, name), ranked=False) for name in metrics]
    head = (*(LAYERS if numbers.measures_layers else LEAD), *text_columns("layer", "where"))
    caption = captioned(
        "Every number of the suite; layer: MoE layers in network order, from 0; all: of the "
        f"network. {_what(numbers)}",
        _meanings(card, metrics),
        _analyses(numbers),
    )
    return caption, (*head, *columns), rows


def _row(numbers: Numbers, who: Who, place: Sequence[str], cells: Sequence[Cell]) -> Row:
    entry, under = who.entry, numbers.under[who]
    if not numbers.measures_layers:
        return metric_row(numbers.study, entry, cells, *place, under=under)
    n = max((cell.n or 0 for cell in cells), default=0)
    head = (entry.label, entry.condition.label, who.machine, *place)
    return Row((*map(words, head), *cells), n, entry, under)


def _what(numbers: Numbers) -> str:
    """Return what was measured, when, and what the intervals are."""
    if numbers.measures_layers:
        return "Bare layers, which were not trained; numbers of several machines are not pooled."
    when = "At the end of training, of the network or the mean over its MoE layers."
    return f"{when} {INTERVALS}"


def _analyses(numbers: Numbers) -> str:
    """Return what a stopping rule does to intervals, or "" for bare layers, which have no seeds."""
    return "" if numbers.measures_layers else sentence_on_analyses(numbers.study)


def _meanings(card: Card, metrics: Iterable[str]) -> str:
    """Return the meaning of each metric, one sentence each."""
    meanings = {name: card.definition(name).meaning for name in metrics}
    return " ".join(f"{name}: {meaning}" for name, meaning in meanings.items() if meaning)


CAPTION = (
    "What suite {suite} measured at snapshots of the trainings, against the training steps so "
    "far. Line: mean over the seeds ({counts}); band: from the lowest to the highest seed (none "
    "where n = 1)."
)


def _curves(numbers: Numbers, study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for each metric, the main one first."""
    card = numbers.card
    ordered = numbers.ordered(set(numbers.snapshots["place"]))
    lines = {place: _lines(numbers, study.under(condition), place) for place in ordered}
    # A line needs two points.
    shown = {place: own for place, own in lines.items() if any(len(p) > 1 for p in own.values())}
    if not shown:
        raise Lacking(f"suite {card.name} measured no two snapshots of a finished trial")
    few = list(shown)[:MOST_CURVES]
    runs: dict[Entry, int] = {}
    for place in few:
        for entry, points in shown[place].items():
            runs[entry] = max(runs.get(entry, 0), int(points["n"].max()))
    figure, drawn = panels(len(few), 2, PAGE, 2.0 + 0.05 * len(runs))
    for axes, place in zip(drawn, few, strict=True):
        _panel(axes, numbers, place, shown[place])
    router_legend(figure, {entry.system: study.styles[entry.system] for entry in runs}, 3)
    meanings = "; ".join(
        f"{p.label}: {card.definition(p.metric).meaning}".strip().rstrip(".:") for p in few
    )
    counts = number_of_runs({entry.system: n for entry, n in runs.items()})
    more = f"The first {MOST_CURVES} of {len(shown)} metrics."
    caption = captioned(
        CAPTION.format(suite=card.name, counts=counts),
        f"{meanings}.",
        more if len(shown) > MOST_CURVES else "",
    )
    return caption, figure, runs


def _lines(numbers: Numbers, entries: Iterable[Entry], place: Place) -> dict[Entry, pd.DataFrame]:
    """Return the curve of each entry that has one: of the network, else averaged over layers."""
    rows = numbers.snapshots
    rows = rows[(rows["place"] == place) & np.isfinite(rows["value"])]
    whole = rows[rows["layer"].isna()]
    by_entry = dict(iter((rows if whole.empty else whole).groupby("entry", sort=False)))
    return {
        entry: over_seeds(
            by_entry[entry].groupby(["seed", "step"], as_index=False)["value"].mean(), "step"
        ).astype(float)
        for entry in entries
        if entry in by_entry
    }


def _panel(axes: Axes, numbers: Numbers, place: Place, lines: Mapping[Entry, pd.DataFrame]) -> None:
    column = numbers.column(place.metric, place.metric, place.label)
    for entry, points in lines.items():
        scaled = points[["mean", "low", "high"]] * column.scale
        draw_line(axes, numbers.study.styles[entry.system], points.assign(**scaled), "step")
    axes.set_xlabel("training steps")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel(folded(f"{column.heading}{ARROWS[column.better]}", 30))
    axes.grid()
