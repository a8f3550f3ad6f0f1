"""All numbers of one suite in a study, by what was measured and where they apply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, isfinite, log10
from statistics import median
from typing import Any

import pandas as pd

from report.cells import measured, stands_under
from report.conditions import Entry, closest, fullest
from report.study import StudyData
from report.table import CONSTANT, MISSING, NOT_APPLICABLE, Cell, Column, summary, words
from report.timings import machine_names
from report.topics.generic.cards import Card, Place, place_of
from results.conditions import Condition

NO_PLACE = ("constant", "flops", "seconds")
"""Keys of `where` that tell how a number came to be, and set it apart from no other."""
SHARE_SCALE = 100
MANY = 1e6
"""From here on a number is told with a prefix, as 1.23 M."""


@dataclass(frozen=True)
class Who:
    """What was measured: a trained router under a condition, or its bare layer on one machine.

    Attributes:
        machine: its name; "" of what was trained, whose numbers are pooled over machines.
    """

    entry: Entry
    machine: str = ""


@dataclass(frozen=True)
class Spot:
    """Where a number stands. `layer`: MoE layer; None for the network, or the mean over layers."""

    who: Who
    layer: int | None
    place: Place


@dataclass(frozen=True)
class Numbers:
    """What a suite measured.

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

    @property
    def under(self) -> dict[Who, tuple[Condition, ...]]:
        """What was measured, or should have been, in order; with whom it compares."""
        if not self.measures_layers:
            compared = stands_under(self.study)
            return {Who(e): compared[e] for e in measured(self.study, self.card.name)}
        present = {spot.who for spot in self.final}
        known = self.study.routers.index
        listed = sorted(present, key=lambda w: (w.machine, w.entry.order, known(w.entry.router)))
        return {who: tuple(_beside(who, listed)) for who in listed}

    @property
    def places(self) -> list[Place]:
        """The numbers of the network, the main one first, then as the suite declares them."""
        return self.ordered({spot.place for spot in self.final if spot.layer is None})

    def ordered(self, places: Iterable[Place]) -> list[Place]:
        """Places in the order in which they are shown."""
        declared = self.card.metrics

        def order(place: Place) -> tuple[Any, ...]:
            known = place.metric in declared
            rank = declared.index(place.metric) if known else len(declared)
            return not self.card.is_main(place), rank, place.metric, place.where

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
        """Make a column of a metric, with three digits of its usual value; a share is told in %."""
        definition = self.card.definition(metric)
        scale = SHARE_SCALE if definition.unit == "share" else 1
        usual = scale * self._usual(metric)
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

    def _usual(self, metric: str) -> float:
        """Return the median size of a metric's values other than 0; 1 where there is none."""
        by_spot = [own for spot, own in self.final.items() if spot.place.metric == metric]
        sizes = [abs(value) for own in by_spot for _, value in own if value and isfinite(value)]
        return median(sizes or [1.0])


def _place(row: Any) -> Place:
    """Return the place of a row; the usual split goes without saying."""
    where = {key: value for key, value in row.where.items() if key not in NO_PLACE}
    usual = "test" if pd.isna(row.step) else "val"
    split = {} if row.split in (None, usual) else {"split": row.split}
    return place_of(row.metric, split | where)


def _beside(who: Who, listed: list[Who]) -> Iterable[Condition]:
    """Return the conditions that a bare layer stands beside on its machine."""
    entries = [other.entry for other in listed if other.machine == who.machine]
    for condition in fullest(entries):
        if closest(entries, who.entry.router, condition) == who.entry:
            yield Condition((("machine", who.machine),)) + condition
