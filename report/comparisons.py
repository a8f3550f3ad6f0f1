"""Paired comparisons of test accuracy: each router against `dense`, and against the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from report.entries import Entry
from report.study import StudyData
from report.systems import DENSE
from results.statistics import PairedDifference, holm, paired_difference

ALPHA = 0.05
METRIC, SUITE = "top1", "accuracy"


@dataclass(frozen=True)
class Comparison:
    """`entry` less `reference`, over the seeds that both have; adjusted is Holm's p-value."""

    entry: Entry
    reference: Entry
    difference: PairedDifference | None
    adjusted: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the difference is one, in words."""
        if self.difference is None:
            return "no seed in common"
        if self.adjusted is None:
            return f"n = {self.difference.n} is too small for a test"
        if self.adjusted >= ALPHA:
            return "not resolved"
        return "higher" if self.difference.mean > 0 else "lower"

    @property
    def resolved(self) -> bool:
        return self.adjusted is not None and self.adjusted < ALPHA


def against_dense(study: StudyData) -> list[Comparison]:
    """Every other entry against the model without MoE layers under the same condition."""
    return _family(study, lambda condition: study.entry(DENSE, condition))


def against_best(study: StudyData) -> list[Comparison]:
    """Every other entry against the best router under the same condition."""
    return _family(study, lambda condition: best(study, condition))


def best(study: StudyData, condition: str) -> Entry | None:
    """The router, baselines apart, of the highest mean accuracy; among all if there are no others.

    Routers with most seeds only: a lucky single run of a router that failed otherwise is not best.
    """
    means = {entry: study.final(METRIC, entry) for entry in study.under(condition)}
    means = {entry: values for entry, values in means.items() if len(values)}
    routers = {e: values for e, values in means.items() if not study.is_baseline(e.router)}
    candidates = routers or means
    most = max((len(values) for values in candidates.values()), default=0)
    full = {entry: values.mean() for entry, values in candidates.items() if len(values) == most}
    return max(full, key=lambda entry: full[entry], default=None)


def _family(study: StudyData, reference_of: Callable[[str], Entry | None]) -> list[Comparison]:
    """One family of tests: all of these comparisons are adjusted together."""
    made: dict[tuple[Entry, Entry], Comparison] = {}
    for condition in study.conditions:
        reference = reference_of(condition)
        for entry in study.under(condition):
            if reference is not None and entry != reference:
                made[entry, reference] = _compare(study, entry, reference)
    found = list(made.values())
    tested = [c for c in found if c.difference is not None and c.difference.p_value is not None]
    adjusted = iter(holm([c.difference.p_value for c in tested]))  # type: ignore[misc, union-attr]
    return [replace(c, adjusted=next(adjusted)) if c in tested else c for c in found]


def _compare(study: StudyData, entry: Entry, reference: Entry) -> Comparison:
    ours, theirs = study.final(METRIC, entry), study.final(METRIC, reference)
    seeds = ours.index.intersection(theirs.index)
    if seeds.empty:
        return Comparison(entry, reference, None)
    difference = paired_difference(list(ours[seeds]), list(theirs[seeds]))
    return Comparison(entry, reference, difference)
