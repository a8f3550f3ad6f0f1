"""The tables of a suite that no section is made for, and its column of the main table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from report.cells import BEST, INTERVALS, LEAD, lead, sentence_on_analyses, why_unmeasured
from report.conditions import Entry, closest_layer
from report.study import StudyData
from report.table import MISSING, Absent, Cell, Column, Row, Table, assemble, words
from report.topics.generic.cards import EVERY, SHOWN, Card, Place, cards
from report.topics.generic.numbers import Numbers, Spot, Who

MOST = 12
"""Numbers that stand side by side; the table of all numbers has the others."""
LAYERS = tuple(Column(name, name, words=True) for name in ("router", "condition", "machine"))
"""The columns that say which bare layer a row is about."""


@dataclass(frozen=True)
class Headline:
    """The main metric of a suite, as a column of the main table.

    Attributes:
        machine: whose numbers of bare layers are shown, since machines are never pooled; "" of what
            was trained.
    """

    numbers: Numbers
    place: Place
    machine: str

    @property
    def column(self) -> Column:
        """The column, by a key that no other suite has."""
        key = f"{self.numbers.card.name}.{self.place.metric}"
        return self.numbers.column(self.place.metric, key, self.place.metric)

    def cell(self, entry: Entry) -> Cell:
        """Show the number of an entry, or of its bare layer."""
        layers = [w.entry for w in self.numbers.under if w.machine == self.machine != ""]
        own = closest_layer(layers, entry) if self.machine else entry
        if own is None:
            return words(MISSING)
        return self.numbers.cell(Spot(Who(own, self.machine), None, self.place))

    @property
    def sentence(self) -> str:
        """What the column shows."""
        card = self.numbers.card
        on = f", bare layers on {self.machine}" if self.machine else ""
        meaning = card.definition(self.place.metric).meaning or card.summary
        return f"{self.place.label} (suite {card.name}{on}): {meaning}"


def headlines(study: StudyData) -> list[Headline]:
    """Return the main metric of each suite that measured it."""
    shown = []
    for card in cards(study):
        numbers = Numbers.of(study, card)
        main = [place for place in numbers.places if card.is_main(place)]
        machines = [who.machine for who in numbers.under]
        most = max(dict.fromkeys(machines), key=machines.count, default="")
        shown += [Headline(numbers, place, most) for place in main[:1]]
    return shown


def tables(study: StudyData) -> Iterator[Table | Absent]:
    """Of each suite a table of the network's numbers, and one of every layer and place."""
    for card in cards(study):
        numbers = Numbers.of(study, card)
        if not numbers.final:
            why = why_unmeasured(study, card.name)
            yield Absent(f"{SHOWN}{card.slug}", f"{card.title} by router", why)
        if numbers.places:
            yield _network(numbers)
        if len(numbers.places) > MOST or any(spot.layer is not None for spot in numbers.final):
            yield _every(numbers)


def _network(numbers: Numbers) -> Table:
    """Make a row for each router under each condition; of bare layers, on each machine."""
    card, places = numbers.card, numbers.places[:MOST]
    columns = [numbers.column(place.metric, place.label, place.label) for place in places]
    rows = [
        _row(numbers, who, (), [numbers.cell(Spot(who, None, place)) for place in places])
        for who in numbers.under
    ]
    left_out = len(numbers.places) - len(places)
    parts = (
        card.summary,
        f"{left_out} more numbers stand in the table of all." if left_out else "",
        _what(numbers),
        _meanings(card, [place.metric for place in places]),
        BEST if any(column.ranked for column in columns) else "",
    )
    head = LAYERS if numbers.measures_layers else LEAD
    caption, title = " ".join(filter(None, parts)), f"{card.title} by router"
    return assemble(f"{SHOWN}{card.slug}", title, caption, (*head, *columns), rows)


def _every(numbers: Numbers) -> Table:
    """Make a row for each router, condition, layer and place; a column for each metric."""
    card = numbers.card
    ordered = numbers.ordered({spot.place for spot in numbers.final})
    metrics = list(dict.fromkeys(place.metric for place in ordered))
    there = {(spot.who, spot.layer, spot.place.where) for spot in numbers.final}
    rows = []
    for who in numbers.under:
        own = {(layer, where) for other, layer, where in there if other == who}
        for layer, where in sorted(own, key=lambda each: (each[0] is None, each[0] or 0, each[1])):
            spots = [Spot(who, layer, Place(metric, where)) for metric in metrics]
            place = ("all" if layer is None else str(layer), Place("", where).words)
            rows.append(_row(numbers, who, place, [numbers.cell(spot) for spot in spots]))
    columns = [replace(numbers.column(name, name, name), ranked=False) for name in metrics]
    head = (
        *(LAYERS if numbers.measures_layers else LEAD),
        Column("layer", "layer", words=True),
        Column("where", "where", words=True),
    )
    caption = (
        "Every number of the suite. Layer: MoE layers in network order, from 0; all: of the "
        f"network. {_what(numbers)} {_meanings(card, metrics)}"
    )
    title = f"{card.title}, layer by layer"
    return assemble(f"{EVERY}{card.slug}", title, caption, (*head, *columns), rows)


def _row(numbers: Numbers, who: Who, place: Sequence[str], cells: Sequence[Cell]) -> Row:
    n = max((cell.n or 0 for cell in cells), default=0)
    if numbers.measures_layers:
        head = [words(text) for text in (who.entry.router, who.entry.condition.label, who.machine)]
    else:
        head = lead(numbers.study, who.entry, n)
    return Row((*head, *map(words, place), *cells), n, who.entry, numbers.under[who])


def _what(numbers: Numbers) -> str:
    """Say what was measured when, and what the intervals are."""
    if numbers.measures_layers:
        return "Bare layers, which no training made; numbers of several machines are not pooled."
    parts = (
        "At the end of training, of the network or the mean over its MoE layers.",
        INTERVALS,
        sentence_on_analyses(numbers.study),
    )
    return " ".join(filter(None, parts))


def _meanings(card: Card, metrics: Iterable[str]) -> str:
    """Say what each metric is, in a sentence."""
    meanings = {name: card.definition(name).meaning for name in metrics}
    return " ".join(f"{name}: {meaning}" for name, meaning in meanings.items() if meaning)
