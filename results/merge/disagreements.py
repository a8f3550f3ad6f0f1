"""Results of one trial that differ: trained or measured twice, as on two machines."""

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
"""Units of a metric that is a time."""
SPENT = ("seconds", "flops")
"""Keys of a metric's `where` that say what was spent until its step, and not where it applies."""


@dataclass(frozen=True)
class Disagreement:
    """The values of one metric of a trial in two measurements that should agree.

    Attributes:
        trial: the trial's fingerprint.
        router, seed: what the trial is, for readers.
        place: where the number that differs most applies, for readers; "" for the whole model.
        value, machine: of the earliest measurement.
        other_value, other_machine: of the other one.
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
        """The difference over the larger value; infinite where only one of them is a number."""
        return _difference(self.value, self.other_value)


class _Place(NamedTuple):
    """A metric and where it applies; what was spent until then is no part of it."""

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
    """Compare all results of each of these trials; the largest differences come first.

    Measurements are compared that the same code of a suite made with the same options: each with
    the earliest. Times are not results, nor is what a training with a budget of seconds reached on
    another machine.
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
    """Return the measurements that should agree, the earliest first, where there are several."""
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
    """Pair the numbers that both have, by the metric's name."""
    pairs: dict[str, dict[_Place, tuple[float, float]]] = defaultdict(dict)
    for place in one.keys() & other.keys():
        pairs[place.metric][place] = (one[place], other[place])
    return pairs


def _difference(one: float, other: float) -> float:
    """Return the difference over the larger value: 0 only for equal ones, of which NaN is one."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other) / max(abs(one), abs(other))
    return math.inf if math.isnan(difference) else difference


def _machine_names(session: Session) -> dict[int, str]:
    """Return the name of each machine, with a part of its hash where several have that name."""
    rows = session.execute(select(MachineRow.id, MachineRow.name, MachineRow.hash)).all()
    times = Counter(row.name for row in rows)
    return {
        row.id: row.name if times[row.name] == 1 else f"{row.name} {row.hash[:6]}" for row in rows
    }


def _times(session: Session) -> Callable[[str, str, str], bool]:
    """Return what tells, of a suite, its code and a metric, whether the metric is a time or rate.

    Its unit says so, as the suite declared it. A ratio of times has none, but names them.
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
