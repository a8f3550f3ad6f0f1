"""The suites that no section is made for: their cards in the database, and all their numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import floor, isfinite, log10
from statistics import median
from typing import Any, Literal

import pandas as pd

from report.cells import measured, stands_under
from report.conditions import Entry, closest, fullest
from report.study import BUILT_IN, StudyData
from report.table import CONSTANT, MISSING, NOT_APPLICABLE, Cell, Column, summary, words
from report.timings import machine_names
from results.conditions import Condition


@dataclass(frozen=True)
class Place:
    """A number of a suite: its metric, and the rest of where it applies, as keys and JSON."""

    metric: str
    where: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The metric, with what sets this number of it apart."""
        return ", ".join(filter(None, (self.metric, self.qualifiers)))

    @property
    def qualifiers(self) -> str:
        """Where the number applies, for readers."""
        return ", ".join(f"{key} {json.loads(value)}" for key, value in self.where)


@dataclass(frozen=True)
class Definition:
    """The meaning of a metric's name.

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
    made = []
    for name in sorted((asked | set(study.measurements["suite"])) - BUILT_IN):
        row: Any = known.get(name)
        definitions = tuple(Definition(**each) for each in row.metrics) if row else ()
        first = definitions[0].name if definitions else ""
        main = (row.main_metric or first) if row else ""
        made.append(Card(name, row.summary if row else "", main, definitions))
    return made


NO_PLACE = ("constant", "flops", "seconds")
"""Keys of `where` that tell how a number came to be, and set it apart from no other."""
MANY = 1e6
"""From here on a number is written with a prefix, as 1.23 M."""


@dataclass(frozen=True)
class Who:
    """A subject of a measurement: a trained router under a condition, or a layer on one machine.

    Attributes:
        machine: name of the machine; "" for what was trained, whose numbers are pooled over
            machines.
    """

    entry: Entry
    machine: str = ""


@dataclass(frozen=True)
class Spot:
    """The place of a number. `layer`: MoE layer; None for the network, or the mean over layers."""

    who: Who
    layer: int | None
    place: Place


@dataclass(frozen=True)
class Numbers:
    """The measurements of a suite.

    Attributes:
        final: pairs of a fingerprint and a value, one a seed, at the end of training or of a layer.
        constant: where the number is what it is by construction.
        snapshots: a row a value along training, with its `entry`, `place`, `seed`, `step`, `layer`.
    """

    study: StudyData
    card: Card
    final: dict[Spot, list[tuple[str, float]]]
    constant: frozenset[Spot]
    snapshots: pd.DataFrame

    @classmethod
    def of(cls, study: StudyData, card: Card) -> Numbers:
        """Read a suite's numbers from the frames of a study; not of second runs of A/A."""
        rows = study.metrics
        rows = rows[(rows["suite"] == card.name) & rows["value"].notna()]
        rows = rows[rows["aa_replicate"] == 0]
        places = [_place(row) for row in rows.itertuples()]
        rows = rows.assign(place=pd.Series(places, rows.index, object))
        machines = machine_names(study)
        final: dict[Spot, list[tuple[str, float]]] = defaultdict(list)
        constant = set()
        for row in rows[rows["step"].isna()].sort_values("seed", kind="stable").itertuples():
            who = Who(row.entry, machines[row.machine] if pd.isna(row.attempt) else "")
            spot = Spot(who, None if pd.isna(row.layer) else int(row.layer), row.place)
            final[spot].append((row.trial, float(row.value)))
            if row.where.get("constant"):
                constant.add(spot)
        return cls(study, card, dict(final), frozenset(constant), rows[rows["step"].notna()])

    @property
    def measures_layers(self) -> bool:
        """Whether these are numbers of bare layers, which no training made."""
        return any(spot.who.machine for spot in self.final)

    @cached_property
    def under(self) -> dict[Who, tuple[Condition, ...]]:
        """What was measured, or should have been, in order; with whom it compares."""
        if not self.measures_layers:
            compared = stands_under(self.study)
            return {Who(e): compared[e] for e in measured(self.study, self.card.name)}
        present = {spot.who for spot in self.final}
        known = self.study.systems.index
        listed = sorted(present, key=lambda w: (w.machine, w.entry.order, known(w.entry.system)))
        return {who: tuple(_conditions_of(who, listed)) for who in listed}

    @property
    def places(self) -> list[Place]:
        """The numbers of the network, the main one first, then as the suite declares them."""
        return self.ordered({spot.place for spot in self.final if spot.layer is None})

    def ordered(self, places: Iterable[Place]) -> list[Place]:
        """Sort places into the order in which they are shown."""
        rank = {metric: number for number, metric in enumerate(self.card.metrics)}

        def order(place: Place) -> tuple[Any, ...]:
            known = rank.get(place.metric, len(rank))
            return not self.card.is_main(place), known, place.metric, place.where

        return sorted(places, key=order)

    def cell(self, spot: Spot) -> Cell:
        """Show the mean of a number over the seeds, with its interval."""
        pairs = self.final.get(spot)
        if pairs is None:
            looked = self.study.was_measured(self.card.name, spot.who.entry)
            return words(NOT_APPLICABLE if looked else MISSING)
        marks = [CONSTANT] if spot in self.constant else []
        trials, values = zip(*pairs, strict=True)
        return summary(values, *marks, trials=trials, confidence=self.study.confidence)

    def column(self, metric: str, key: str, label: str) -> Column:
        """Make a column of a metric, with three digits of its usual value; shares are in %."""
        definition = self.card.definition(metric)
        scale = 100 if definition.unit == "share" else 1
        by_spot = [own for spot, own in self.final.items() if spot.place.metric == metric]
        sizes = [abs(value) for own in by_spot for _, value in own if value and isfinite(value)]
        usual = scale * median(sizes or [1.0])
        return Column(
            key,
            label,
            "%" if definition.unit == "share" else definition.unit,
            definition.better,
            scale,
            digits=2 if usual >= MANY else min(max(2 - floor(log10(usual)), 0), 9),
            si=usual >= MANY,
            n=1 if self.measures_layers else None,
            ranked=definition.better is not None,
        )


def _place(row: Any) -> Place:
    """Return the place of a row; the usual split goes without saying."""
    where = {key: value for key, value in row.where.items() if key not in NO_PLACE}
    usual = "test" if pd.isna(row.step) else "val"
    split = {} if row.split in (None, usual) else {"split": row.split}
    return place_of(row.metric, split | where)


def _conditions_of(who: Who, listed: list[Who]) -> Iterable[Condition]:
    """Return the conditions under which a bare layer is shown on its machine."""
    entries = [other.entry for other in listed if other.machine == who.machine]
    for condition in fullest(entries):
        if closest(entries, who.entry.system, condition) == who.entry:
            yield Condition((("machine", who.machine),)) + condition
