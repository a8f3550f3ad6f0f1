"""Suites without a section of their own: their cards in the database and all their numbers."""

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
    """A number of a suite: its metric, and where else it applies, as keys with JSON values."""

    metric: str
    where: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The metric with its qualifiers."""
        return ", ".join(filter(None, (self.metric, self.qualifiers)))

    @property
    def qualifiers(self) -> str:
        """What distinguishes this number from others of its metric, for readers."""
        return ", ".join(f"{key} {json.loads(value)}" for key, value in self.where)


@dataclass(frozen=True)
class Definition:
    """The definition of a metric.

    Attributes:
        better: which direction is better; None if neither is.
        where: if a main metric has several numbers, the qualifiers of the one that ranks routers.
    """

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A suite as described in the database.

    Attributes:
        main: name of the metric that ranks routers; "" for a suite without metrics.
    """

    name: str
    summary: str
    main: str
    definitions: tuple[Definition, ...]

    @property
    def slug(self) -> str:
        """The name for use in file names: letters, digits, `-` and `_`."""
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
        """Return the definition of a metric, or only its name if the suite has none."""
        named = (each for each in self.definitions if each.name == metric)
        return next(named, Definition(metric))

    def is_main(self, place: Place) -> bool:
        """Tell whether a number is the one of the main metric that ranks routers."""
        wanted = place_of(self.main, self.definition(self.main).where)
        return place.metric == self.main and set(wanted.where) <= set(place.where)


def place_of(metric: str, where: Mapping[str, Any]) -> Place:
    """Return the place of a number from the `where` that its suite recorded."""
    pairs = ((key, json.dumps(value, sort_keys=True)) for key, value in where.items())
    return Place(metric, tuple(sorted(pairs)))


def cards(study: StudyData) -> list[Card]:
    """Return the suites without their own section that were requested or measured, by name."""
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
"""Keys of `where` that describe how a number was obtained and do not distinguish numbers."""
MANY = 1e6
"""Numbers of at least this size are written with a prefix, as 1.23 M."""


@dataclass(frozen=True)
class Who:
    """A subject of a measurement: a trained router under a condition, or a layer on one machine.

    Attributes:
        machine: name of the layer's machine; "" for a trained router, whose numbers are pooled
            over machines.
    """

    entry: Entry
    machine: str = ""


@dataclass(frozen=True)
class Spot:
    """The place of a number. `layer`: MoE layer; None for the network or the mean over layers."""

    who: Who
    layer: int | None
    place: Place


@dataclass(frozen=True)
class Numbers:
    """The measurements of a suite.

    Attributes:
        final: pairs of fingerprint and value, one per seed at the end of training, or per layer.
        constant: the spots whose number is constant by construction.
        snapshots: one row per value along training, with `entry`, `place`, `seed`, `step`, `layer`.
    """

    study: StudyData
    card: Card
    final: dict[Spot, list[tuple[str, float]]]
    constant: frozenset[Spot]
    snapshots: pd.DataFrame

    @classmethod
    def of(cls, study: StudyData, card: Card) -> Numbers:
        """Read a suite's numbers from the frames of a study, without A/A replicates."""
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
        """Whether these are numbers of bare layers, which were not trained."""
        return any(spot.who.machine for spot in self.final)

    @cached_property
    def under(self) -> dict[Who, tuple[Condition, ...]]:
        """The subjects measured or due, in order, with the conditions that each is compared in."""
        if not self.measures_layers:
            compared = stands_under(self.study)
            return {Who(e): compared[e] for e in measured(self.study, self.card.name)}
        present = {spot.who for spot in self.final}
        known = self.study.systems.index
        listed = sorted(present, key=lambda w: (w.machine, w.entry.order, known(w.entry.system)))
        return {who: tuple(_conditions_of(who, listed)) for who in listed}

    @property
    def places(self) -> list[Place]:
        """The numbers of the network: the main one, then the others as the suite declares them."""
        return self.ordered({spot.place for spot in self.final if spot.layer is None})

    def ordered(self, places: Iterable[Place]) -> list[Place]:
        """Sort places into display order."""
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
        """Make a metric's column, with three digits of its median value; shares are in %."""
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
    """Return the place of a row, leaving out the split if it is the usual one."""
    where = {key: value for key, value in row.where.items() if key not in NO_PLACE}
    usual = "test" if pd.isna(row.step) else "val"
    split = {} if row.split in (None, usual) else {"split": row.split}
    return place_of(row.metric, split | where)


def _conditions_of(who: Who, listed: list[Who]) -> Iterable[Condition]:
    """Yield the conditions under which a bare layer is shown on its machine."""
    entries = [other.entry for other in listed if other.machine == who.machine]
    for condition in fullest(entries):
        if closest(entries, who.entry.system, condition) == who.entry:
            yield Condition((("machine", who.machine),)) + condition
