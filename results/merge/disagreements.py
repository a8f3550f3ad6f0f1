"""Results of one trial that differ because it was trained or measured twice, as on two machines."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, select
from sqlalchemy.orm import Session

from results.conditions import label_of
from results.connect import Database, among
from results.models import AttemptRow, ComponentRow, MachineRow, MeasurementRow, MetricRow, TrialRow
from results.store.records import AttemptStatus, MeasurementStatus
from results.text import to_json

TIMES = {"s", "ms", "us", "µs", "ns", "min", "h"}
"""Units that mark a metric as a time."""
SPENT = ("seconds", "flops")
"""Keys of a metric's `where` that say what was spent up to its step, not where it applies."""


@dataclass(frozen=True)
class Disagreement:
    """The values of one metric of a trial in two measurements that should agree.

    Attributes:
        trial: the trial's fingerprint.
        router, seed: the trial's router and seed, for readers.
        place: where the number that differs most applies, for readers; "" for the whole model.
        value, machine: the value and machine of the earliest measurement.
        other_value, other_machine: those of the other one.
        differing: how many of the metric's numbers differ.
        numbers: how many numbers of this metric both measurements have.
    """

    trial: str
    router: str
    seed: int | None
    suite: str
    metric: str
    place: str
    value: float
    machine: str
    other_value: float
    other_machine: str
    differing: int
    numbers: int

    @property
    def size(self) -> float:
        """The difference relative to the larger value; infinite if only one of them is a number."""
        return _difference(self.value, self.other_value)


class _Place(NamedTuple):
    """A metric and where it applies, without what was spent up to then."""

    metric: str
    layer: int | None
    step: int | None
    split: str | None
    where: str

    def __str__(self) -> str:
        named = {"layer": self.layer, "step": self.step}
        parts = [self.split, *(f"{key} {at}" for key, at in named.items() if at is not None)]
        parts += [f"{key}={value}" for key, value in json.loads(self.where).items()]
        return " ".join(filter(None, parts))


Values = dict[_Place, float]
"""The numbers of one measurement."""


def disagreements(database: Database, fingerprints: Iterable[str]) -> list[Disagreement]:
    """Return the differences between the results of each of these trials, the largest first.

    Measurements are compared if the same code of a suite made them with the same options: each
    with the earliest one. Times are not compared, nor are results of trainings with a wall-clock
    budget on different machines.
    """
    with database.reading() as session:
        groups = _alike(session, fingerprints)
        values = _values(session, [row.id for alike in groups for row in alike])
        machines, is_time = _machine_names(session), _times(session)
    differing = []
    for first, *others in groups:
        for other in others:
            trained = first.attempt != other.attempt
            names = [machines[row.trained if trained else row.measured] for row in (first, other)]
            common = _by_metric(values[first.id], values[other.id])
            for metric, pairs in common.items():
                place, (value, other_value) = max(
                    pairs.items(), key=lambda pair: _difference(*pair[1])
                )
                apart = sum(_difference(*pair) > 0 for pair in pairs.values())
                if not apart or is_time(first.suite, first.source_hash, metric):
                    continue
                differing.append(
                    Disagreement(
                        trial=first.fingerprint,
                        router=label_of(first.description),
                        seed=first.description.get("seed"),
                        suite=first.suite,
                        metric=metric,
                        place=str(place),
                        value=value,
                        machine=names[0],
                        other_value=other_value,
                        other_machine=names[1],
                        differing=apart,
                        numbers=len(pairs),
                    )
                )
    return sorted(differing, key=lambda each: -each.size)


def _alike(session: Session, fingerprints: Iterable[str]) -> list[list[Any]]:
    """Return groups of two or more measurements that should agree, each with the earliest first."""
    query = select(
        *(TrialRow.fingerprint, TrialRow.description),
        *(AttemptRow.id.label("attempt"), AttemptRow.machine_id.label("trained")),
        *(MeasurementRow.id, MeasurementRow.machine_id.label("measured")),
        *(MeasurementRow.suite, MeasurementRow.source_hash),
        cast(MeasurementRow.options, Text).label("options"),
    )
    query = query.join(AttemptRow, AttemptRow.trial_id == TrialRow.id)
    query = query.join(MeasurementRow, MeasurementRow.attempt_id == AttemptRow.id)
    query = query.where(AttemptRow.status == AttemptStatus.DONE)
    query = query.where(MeasurementRow.status == MeasurementStatus.DONE)
    query = query.order_by(MeasurementRow.measured_at, MeasurementRow.id)
    alike: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in among(session, query, TrialRow.fingerprint, fingerprints):
        matched = row.description.get("compute", {}).get("match")
        machine = row.trained if matched == "wall_clock" else None
        alike[row.fingerprint, row.suite, row.source_hash, row.options, machine].append(row)
    return [rows for rows in alike.values() if len(rows) > 1]


def _values(session: Session, measurements: Iterable[int]) -> dict[int, Values]:
    columns = (MetricRow.name, MetricRow.layer, MetricRow.step, MetricRow.split, MetricRow.where)
    query = select(MetricRow.measurement_id, MetricRow.value, *columns)
    by_measurement: dict[int, Values] = defaultdict(dict)
    rows = among(session, query, MetricRow.measurement_id, measurements)
    for measurement, value, name, layer, step, split, where in rows:
        applies = to_json({key: part for key, part in where.items() if key not in SPENT})
        by_measurement[measurement][_Place(name, layer, step, split, applies)] = value
    return by_measurement


def _by_metric(one: Values, other: Values) -> dict[str, dict[_Place, tuple[float, float]]]:
    """Pair the numbers that both measurements have, by the metric's name."""
    pairs: dict[str, dict[_Place, tuple[float, float]]] = defaultdict(dict)
    for place in one.keys() & other.keys():
        pairs[place.metric][place] = (one[place], other[place])
    return pairs


def _difference(one: float, other: float) -> float:
    """Return the difference relative to the larger value: 0 only if equal; NaN equals NaN."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other) / max(abs(one), abs(other))
    return math.inf if math.isnan(difference) else difference


def _machine_names(session: Session) -> dict[int, str]:
    """Return the name of each machine, with a part of its hash if several share that name."""
    rows = session.execute(select(MachineRow.id, MachineRow.name, MachineRow.hash)).all()
    times = Counter(row.name for row in rows)
    return {
        row.id: row.name if times[row.name] == 1 else f"{row.name} {row.hash[:6]}" for row in rows
    }


def _times(session: Session) -> Callable[[str, str, str], bool]:
    """Return a function that tells whether a metric, by suite and code, is a time or rate.

    The unit that the suite declared decides. A ratio of times has no unit, but "time" in its name.
    """
    query = select(ComponentRow).filter_by(kind="suite")
    units = {
        (suite.name, suite.source_hash, metric["name"]): metric["unit"] or ""
        for suite in session.scalars(query)
        for metric in suite.metrics
    }

    def is_time(suite: str, code: str, metric: str) -> bool:
        _, _, unit = units.get((suite, code, metric), "").rpartition("/")
        return unit in TIMES or "time" in metric.split("_")

    return is_time
