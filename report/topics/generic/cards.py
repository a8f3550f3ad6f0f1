"""The suites of a study that no section is made for, as their cards in the database tell them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from report.study import StudyData
from report.topics import BUILT_IN, Section

SHOWN, EVERY = "suite_", "all_of_"
"""How the names of a suite's tables begin: that of the network, and that of all numbers."""


@dataclass(frozen=True)
class Place:
    """Which number of a suite: a metric, and the rest of where it applies, as keys and JSON."""

    metric: str
    where: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The metric, with what sets this number of it apart."""
        return ", ".join(filter(None, (self.metric, self.words)))

    @property
    def words(self) -> str:
        """Where the number applies, for readers."""
        return ", ".join(f"{key} {json.loads(value)}" for key, value in self.where)


@dataclass(frozen=True)
class Definition:
    """What the name of a metric means.

    Attributes:
        better: which direction is better; None where neither is.
        where: of a main metric with several numbers, what the one has that ranks routers.
    """

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A suite as the database knows it.

    Attributes:
        main: name of the metric that ranks routers; "" of a suite without metrics.
    """

    name: str
    summary: str
    main: str
    definitions: tuple[Definition, ...]

    @property
    def slug(self) -> str:
        """The name as a part of names of files: letters, digits, `-`, `_`."""
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", self.name)
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return plain if plain == self.name else f"{plain}-{digest}"

    @property
    def title(self) -> str:
        """The name as a heading."""
        plain = self.name.replace("_", " ")
        return plain[:1].upper() + plain[1:]

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics and arrays, the main one first."""
        declared = [each.name for each in self.definitions]
        return sorted(declared, key=lambda name: name != self.main)

    def definition(self, metric: str) -> Definition:
        """Find what a metric means; nothing but its name where the suite does not say."""
        named = (each for each in self.definitions if each.name == metric)
        return next(named, Definition(metric))

    def is_main(self, place: Place) -> bool:
        """Tell whether a number is of the main metric, at a place where that ranks routers."""
        wanted = place_of(self.main, self.definition(self.main).where)
        return place.metric == self.main and set(wanted.where) <= set(place.where)


def place_of(metric: str, where: Mapping[str, Any]) -> Place:
    """Return the place of a number that a suite gave `where`."""
    pairs = ((key, json.dumps(value, sort_keys=True)) for key, value in where.items())
    return Place(metric, tuple(sorted(pairs)))


def cards(study: StudyData) -> list[Card]:
    """Return the suites asked for, or that measured, and that no section is made for; by name."""
    asked = set(study.record.request.get("suites", {}))
    rows = study.components[study.components["kind"] == "suite"]
    known = {row.name: row for row in rows.itertuples(index=False)}
    return [
        _card(name, known[name]) if name in known else Card(name, "", "", ())
        for name in sorted((asked | set(study.measurements["suite"])) - BUILT_IN)
    ]


def _card(name: str, row: Any) -> Card:
    definitions = tuple(Definition(**each) for each in row.metrics)
    first = definitions[0].name if definitions else ""
    return Card(name, row.summary, row.main_metric or first, definitions)


def section(card: Card) -> Section:
    """Return the place of a suite on the page."""
    shown = (f"table:{SHOWN}{card.slug}", f"figure:{SHOWN}{card.slug}")
    folded = (f"table:{EVERY}{card.slug}",)
    return Section(f"suite-{card.slug}", card.title, shown, folded, (card.name,))


def measured_by(study: StudyData) -> dict[str, tuple[str, ...]]:
    """Return whose numbers these tables and figures show, by their names; the main table too."""
    shown = cards(study)
    own = {f"{start}{card.slug}": (card.name,) for card in shown for start in (SHOWN, EVERY)}
    return {"main": tuple(card.name for card in shown), **own}
