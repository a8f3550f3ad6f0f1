"""Evidence for a claim from a study's runs: a difference, or a slope, for each seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from report.claims.claims import Claim, Side
from report.conditions import NUMBER, Entry, System
from report.study import StudyData
from results.conditions import Condition
from results.settings import UNSET
from results.text import nearest


class Unfit(Exception):
    """The runs do not hold what a claim is about; the message says what is not there."""


@dataclass(frozen=True)
class Evidence:
    """One number for each seed, the mean over the conditions that could give it.

    Attributes:
        by_condition: the mean over seeds of each condition.
        systems: those that took part.
        trials: fingerprints of all that it is made of.
    """

    by_seed: pd.Series
    by_condition: dict[Hashable, float]
    systems: tuple[System, ...]
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A number by seed under one condition, and what it is made of."""

    values: pd.Series
    entries: tuple[Entry, ...]


def difference(study: StudyData, claim: Claim, left: Side, right: Side) -> Evidence:
    """Return the mean of one side less that of the other, over all conditions that have both.

    Raises:
        Unfit: no condition has both, or no seed.
    """
    paths = {*left.settings, *right.settings}
    samples: dict[tuple[Entry, ...], tuple[Condition, Sample]] = {}
    for block in _blocks(study, paths):
        one, other = (_side(study, claim, side, block) for side in (left, right))
        if one and other:
            entries = (*one.entries, *other.entries)
            # What lacks a swept setting stands beside several conditions, and counts once.
            samples.setdefault(entries, (block, Sample(one.values - other.values, entries)))
    if not samples:
        raise Unfit(_missing(study, claim, (left, right)))
    return _gathered(study, dict(samples.values()))


def slope(study: StudyData, claim: Claim, side: Side, over: str) -> Evidence:
    """Find how much a metric rises as a setting doubles: the least-squares slope, for each seed.

    Raises:
        Unfit: the setting has no two values.
    """
    lines: dict[Hashable, dict[float, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for entry in _entries(study, side):
        place = _number_of(study, entry, over)
        values = _values(study, claim, side, entry)
        if place is not None and not values.empty:
            left = entry.condition.where(lambda path: path != over)
            lines[entry.system.router, left, _experts(study, entry)][place].append(
                Sample(values, (entry,))
            )
    slopes = {kind: _slope(points) for kind, points in lines.items() if len(points) > 1}
    if not slopes:
        values = {place for points in lines.values() for place in points}
        why = f"{over} has the one value {values.pop():g} above 0" if len(values) == 1 else ""
        raise Unfit(why or _missing(study, claim, (side,)))
    return _gathered(study, slopes)


def _slope(points: Mapping[float, list[Sample]]) -> Sample:
    samples = {place: _mean(samples) for place, samples in sorted(points.items())}
    table = pd.concat([sample.values for sample in samples.values()], axis=1, join="inner")
    doublings = np.log2(list(samples))
    centred = doublings - doublings.mean()
    slopes = table.to_numpy() @ (centred / (centred**2).sum())
    entries = tuple(entry for sample in samples.values() for entry in sample.entries)
    return Sample(pd.Series(slopes, table.index), entries)


def _gathered(study: StudyData, samples: Mapping[Hashable, Sample]) -> Evidence:
    """Return the mean over the conditions, of the seeds that all of them have."""
    table = pd.concat([sample.values for sample in samples.values()], axis=1, join="inner").dropna()
    if table.empty:
        raise Unfit("the runs that it needs have no seed in common")
    entries = dict.fromkeys(entry for sample in samples.values() for entry in sample.entries)
    means = table.mean(axis=0).tolist()
    return Evidence(
        by_seed=table.mean(axis=1),
        by_condition=dict(zip(samples, means, strict=True)),
        systems=tuple(dict.fromkeys(entry.system for entry in entries)),
        trials=tuple(t for entry in entries for t in study.behind(entry, table.index)),
    )


def _side(study: StudyData, claim: Claim, side: Side, block: Condition) -> Sample | None:
    """Return the mean of a side under a condition; None where no run of it belongs there."""
    samples = []
    for system in dict.fromkeys(entry.system for entry in _entries(study, side)):
        entry = _entry(study, system, side, block)
        if entry is not None:
            values = _values(study, claim, side, entry)
            if not values.empty:
                samples.append(Sample(values, (entry,)))
    return _mean(samples) if samples else None


def _mean(samples: list[Sample]) -> Sample:
    table = pd.concat([sample.values for sample in samples], axis=1, join="inner")
    return Sample(table.mean(axis=1), tuple(e for sample in samples for e in sample.entries))


def _values(study: StudyData, claim: Claim, side: Side, entry: Entry) -> pd.Series:
    return study.final(claim.metric, entry, **(claim.where | side.where))


def _entry(study: StudyData, system: System, side: Side, block: Condition) -> Entry | None:
    """Return the entry of a system under a condition, with what sets the side apart."""
    given = {path: _text(value) for path, value in side.settings.items() if value is not None}
    left_out = dict.fromkeys(side.settings.keys() - given.keys(), UNSET)
    entry = study.entry(system, block + Condition.of(given | left_out))
    return entry if entry is not None and given.items() <= entry.settings else None


def _entries(study: StudyData, side: Side) -> Iterator[Entry]:
    """Yield the entries of a side's routers and experts, without what is derived from others."""
    for entry in study.entries:
        if entry.system.router not in side.routers or "transform" in entry.condition.mapping:
            continue
        if not side.experts or _experts(study, entry) in side.experts:
            yield entry


def _blocks(study: StudyData, paths: Iterable[str]) -> list[Condition]:
    """List the conditions, without what sets the sides apart and those of derived trials."""
    apart = set(paths)
    trained = [each for each in study.conditions if "transform" not in each.mapping]
    return list(dict.fromkeys(each.where(lambda path: path not in apart) for each in trained))


def _experts(study: StudyData, entry: Entry) -> str:
    return str(study.trials_of(entry)["experts"].iloc[0])


def _number_of(study: StudyData, entry: Entry, path: str) -> float | None:
    """Find the value of a setting that an entry was trained with; None if it can't be doubled."""
    if path == NUMBER:
        return float(study.trials_of(entry)["num_experts"].iloc[0])
    try:
        number = float(entry.condition.mapping[path])
    except (KeyError, ValueError):
        return None
    return number if 0 < number < inf else None


def _missing(study: StudyData, claim: Claim, sides: Iterable[Side]) -> str:
    """Say which side the study has no runs for, or that the metric was not measured of them."""
    for side in sides:
        if not list(_entries(study, side)):
            named = " or ".join(side.routers)
            experts = f" with {' or '.join(side.experts)} experts" if side.experts else ""
            known = {system.router for system in study.systems}
            return f"no runs of {named}{experts}{_hint(study, claim, named, known)}"
    measured = set(study.metrics["metric"])
    if claim.metric not in measured:
        return f"no {claim.metric} was measured{_hint(study, claim, claim.metric, measured)}"
    return "no runs of both sides under one condition, finished and measured"


def _hint(study: StudyData, claim: Claim, name: str, known: Iterable[str]) -> str:
    """Return the nearest of what there is, where a user may have meant it."""
    hint = nearest(name, known) if claim in study.claims else ""
    return hint if "did you mean" in hint else ""


def _text(value: Any) -> str:
    """Return a value as conditions tell it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
