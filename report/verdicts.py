"""Tests of claims on the runs of one study: supported, contradicted or undecided."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import cast

import numpy as np
import pandas as pd

from report.claims import Claim, Side, published
from report.comparisons import negated
from report.conditions import NUMBER, Entry, System
from report.study import StudyData
from results.conditions import Condition
from results.settings import UNSET
from results.statistics.comparisons import holm
from results.statistics.means import ALPHA, PairedDifference, paired_difference
from results.text import nearest

NO_SEED = "the runs that it needs have no seed in common"


class Unfit(Exception):
    """Raised if the runs cannot test a claim; the message says what is missing."""


@dataclass(frozen=True)
class Evidence:
    """One number per seed and per condition; `trials` are the fingerprints of its trials."""

    by_seed: pd.Series
    by_condition: dict[Hashable, float]
    systems: tuple[System, ...]
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A claim that the runs can test.

    Attributes:
        difference: left minus right, or the slope; for `outweighs`, by how much the size of one
            effect exceeds that of the other.
        fits: whether the difference is as the claim says.
        p: the p-value of the test that decides either way; None if there is no test (one seed).
        adjusted: p, adjusted by Holm over all claims tested.
        agreeing: the number of conditions whose difference is as the claim says.
    """

    claim: Claim
    evidence: Evidence
    difference: PairedDifference
    fits: bool
    p: float | None
    agreeing: int
    adjusted: float | None = None

    @property
    def verdict(self) -> str:
        if self.adjusted is None or self.adjusted >= ALPHA:
            return "undecided"
        return "supported" if self.fits else "contradicted"


@dataclass(frozen=True)
class Untested:
    """A claim that the runs cannot test."""

    claim: Claim
    why: str


@lru_cache(maxsize=1)
def judged(study: StudyData) -> list[Judged | Untested]:
    """Return the test of every published claim, then of the user's own."""
    tested = [_tested(study, claim) for claim in (*published(), *study.claims)]
    # A claim with one seed or equal differences has no p, but counts as one of the tests.
    p_values = [1.0 if each.p is None else each.p for each in tested if isinstance(each, Judged)]
    adjusted = iter(holm(p_values))
    for place, each in enumerate(tested):
        if isinstance(each, Judged):
            p = next(adjusted)
            tested[place] = replace(each, adjusted=None if each.p is None else p)
    return tested


def _tested(study: StudyData, claim: Claim) -> Judged | Untested:
    matched = study.compute.get("match", "total_flops")
    if claim.matched and matched not in claim.matched:
        return Untested(claim, f"compute was matched by {matched}")
    try:
        if claim.test == "outweighs":
            return _outweighs(study, claim)
        evidence = (
            _difference(study, claim, claim.left, claim.right)
            if claim.right
            else _slope(study, claim, claim.left, cast(str, claim.over))
        )
    except Unfit as missing:
        return Untested(claim, str(missing))
    sample = evidence.by_seed.tolist()
    at = [claim.margin, -claim.margin] if claim.margin else [0.0]
    p = _largest([_test(study, sample, null).p_value for null in at])
    agreeing = sum(_fits(claim, mean) for mean in evidence.by_condition.values())
    whole = _test(study, sample)
    return Judged(claim, evidence, whole, _fits(claim, whole.mean), p, agreeing)


def _fits(claim: Claim, mean: float) -> bool:
    """Tell whether a difference is as the claim says."""
    if claim.margin:
        return abs(mean) < claim.margin
    return mean < 0 if claim.test in ("lower", "falls") else mean > 0


def _outweighs(study: StudyData, claim: Claim) -> Judged:
    """Test whether |a| > |b| by the two differences, a + b and a - b, whose signs then agree.

    The smaller of the two, with the sign of the larger, is |a| - |b|.
    """
    pairs = [(claim.left, claim.right), (claim.other_left, claim.other_right)]
    both = [_difference(study, claim, cast(Side, a), cast(Side, b)) for a, b in pairs]
    seeds = both[0].by_seed.index.intersection(both[1].by_seed.index)
    if seeds.empty:
        raise Unfit(NO_SEED)
    tests = [_test(study, each.by_seed[seeds].tolist()) for each in both]
    smaller, larger = sorted(tests, key=lambda test: abs(test.mean))
    shown = smaller if larger.mean > 0 else negated(smaller)
    first, second = (each.by_condition for each in both)
    common = {condition: mean for condition, mean in first.items() if condition in second}
    agreeing = sum(mean * second[condition] > 0 for condition, mean in common.items())
    evidence = replace(
        both[0],
        by_condition=common,
        systems=tuple(dict.fromkeys(system for each in both for system in each.systems)),
        trials=tuple(dict.fromkeys(trial for each in both for trial in each.trials)),
    )
    p = _largest([test.p_value for test in tests])
    return Judged(claim, evidence, shown, shown.mean > 0, p, agreeing)


def _test(study: StudyData, sample: Sequence[float], null: float = 0.0) -> PairedDifference:
    """Test the mean of a sample against `null`, corrected for the planned analyses."""
    test = paired_difference(sample, [null] * len(sample), study.confidence)
    if test.p_value is None:
        return test
    return replace(test, p_value=min(1.0, study.planned_analyses * test.p_value))


def _largest(p_values: Sequence[float | None]) -> float | None:
    known = [p for p in p_values if p is not None]
    return max(known) if len(known) == len(p_values) else None


@dataclass(frozen=True)
class _Sample:
    """A number by seed under one condition, and the entries that it comes from."""

    values: pd.Series
    entries: tuple[Entry, ...]


def _difference(study: StudyData, claim: Claim, left: Side, right: Side) -> Evidence:
    """Return the mean of one side minus that of the other, over all conditions that have both."""
    apart = {*left.settings, *right.settings}
    trained = [each for each in study.conditions if "transform" not in each.mapping]
    blocks = dict.fromkeys(each.where(lambda path: path not in apart) for each in trained)
    samples: dict[tuple[Entry, ...], tuple[Condition, _Sample]] = {}
    for block in blocks:
        one, other = (_side(study, claim, side, block) for side in (left, right))
        if one and other:
            entries = (*one.entries, *other.entries)
            # Entries without a swept setting belong to several conditions, but count once.
            samples.setdefault(entries, (block, _Sample(one.values - other.values, entries)))
    if not samples:
        raise Unfit(_missing(study, claim, (left, right)))
    return _evidence(study, dict(samples.values()))


def _slope(study: StudyData, claim: Claim, side: Side, over: str) -> Evidence:
    """Return how much a metric rises as a setting doubles: the least-squares slope per seed."""
    lines: dict[Hashable, dict[float, list[_Sample]]] = defaultdict(lambda: defaultdict(list))
    for entry in _entries(study, side):
        number = _number_of(study, entry, over)
        values = _values(study, claim, side, entry)
        if number is not None and not values.empty:
            rest = entry.condition.where(lambda path: path != over)
            line = lines[entry.system.router, rest, _experts(study, entry)]
            line[number].append(_Sample(values, (entry,)))
    slopes = {kind: _slope_of(points) for kind, points in lines.items() if len(points) > 1}
    if not slopes:
        numbers = {number for points in lines.values() for number in points}
        why = f"{over} has the one value {numbers.pop():g} above 0" if len(numbers) == 1 else ""
        raise Unfit(why or _missing(study, claim, (side,)))
    return _evidence(study, slopes)


def _slope_of(points: Mapping[float, list[_Sample]]) -> _Sample:
    samples = {number: _mean(samples) for number, samples in sorted(points.items())}
    table = _by_seed(samples.values())
    doublings = np.log2(list(samples))
    centred = doublings - doublings.mean()
    slopes = table.to_numpy() @ (centred / (centred**2).sum())
    entries = tuple(entry for sample in samples.values() for entry in sample.entries)
    return _Sample(pd.Series(slopes, table.index), entries)


def _evidence(study: StudyData, samples: Mapping[Hashable, _Sample]) -> Evidence:
    """Average over the conditions, for the seeds that all of them have."""
    table = _by_seed(samples.values()).dropna()
    if table.empty:
        raise Unfit(NO_SEED)
    entries = dict.fromkeys(entry for sample in samples.values() for entry in sample.entries)
    return Evidence(
        by_seed=table.mean(axis=1),
        by_condition=dict(zip(samples, table.mean(axis=0).tolist(), strict=True)),
        systems=tuple(dict.fromkeys(entry.system for entry in entries)),
        trials=tuple(t for entry in entries for t in study.behind(entry, table.index)),
    )


def _side(study: StudyData, claim: Claim, side: Side, block: Condition) -> _Sample | None:
    """Average the systems of a side under a condition; None if it has no value there."""
    settings = {
        path: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for path, value in side.settings.items()
        if value is not None
    }
    without = dict.fromkeys(side.settings.keys() - settings.keys(), UNSET)
    condition = block + Condition.of(settings | without)
    samples = []
    for system in dict.fromkeys(entry.system for entry in _entries(study, side)):
        entry = study.entry(system, condition)
        if entry is not None and settings.items() <= entry.settings:
            values = _values(study, claim, side, entry)
            if not values.empty:
                samples.append(_Sample(values, (entry,)))
    return _mean(samples) if samples else None


def _by_seed(samples: Iterable[_Sample]) -> pd.DataFrame:
    return pd.concat([sample.values for sample in samples], axis=1, join="inner")


def _mean(samples: list[_Sample]) -> _Sample:
    entries = tuple(entry for sample in samples for entry in sample.entries)
    return _Sample(_by_seed(samples).mean(axis=1), entries)


def _values(study: StudyData, claim: Claim, side: Side, entry: Entry) -> pd.Series:
    return study.final(claim.metric, entry, **(claim.where | side.where))


def _entries(study: StudyData, side: Side) -> Iterator[Entry]:
    """Yield the entries of a side's routers and experts, without derived ones."""
    for entry in study.entries:
        if entry.system.router not in side.routers or "transform" in entry.condition.mapping:
            continue
        if not side.experts or _experts(study, entry) in side.experts:
            yield entry


def _experts(study: StudyData, entry: Entry) -> str:
    return str(study.trials_of(entry)["experts"].iloc[0])


def _number_of(study: StudyData, entry: Entry, path: str) -> float | None:
    """Return the value of a setting for an entry; None if it is no positive finite number."""
    if path == NUMBER:
        return float(study.trials_of(entry)["num_experts"].iloc[0])
    try:
        number = float(entry.condition.mapping[path])
    except (KeyError, ValueError):
        return None
    return number if 0 < number < inf else None


def _missing(study: StudyData, claim: Claim, sides: Iterable[Side]) -> str:
    """Return what is missing: runs of a side, or the metric; for a user's claim, with a hint."""

    def hint(name: str, known: Iterable[str]) -> str:
        text = nearest(name, known) if claim in study.claims else ""
        return text if "did you mean" in text else ""

    for side in sides:
        if not any(_entries(study, side)):
            named = " or ".join(side.routers)
            experts = f" with {' or '.join(side.experts)} experts" if side.experts else ""
            known = {system.router for system in study.systems}
            return f"no runs of {named}{experts}{hint(named, known)}"
    measured = set(study.metrics["metric"])
    if claim.metric not in measured:
        return f"no {claim.metric} was measured{hint(claim.metric, measured)}"
    return "no runs of both sides under one condition, finished and measured"
