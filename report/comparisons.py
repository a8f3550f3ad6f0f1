"""The comparisons of test accuracy that are declared before training, under each condition.

Every router against each null, and all pairs of routers: one family per condition, whose tests and
intervals hold jointly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd

from report.conditions import Entry, System
from report.study import StudyData
from results.conditions import Condition
from results.statistics.comparisons import NULLS, Compared, declared, family
from results.statistics.interim import is_decided
from results.statistics.means import PairedDifference, paired
from results.text import counted

METRIC, SUITE = "top1", "accuracy"


@dataclass(frozen=True, kw_only=True)
class Comparison(Compared[Entry]):
    """`entry` minus `reference` under a condition, adjusted over the tests of that condition.

    Attributes:
        condition: the family; an entry may belong to several conditions.
        ours, theirs: the values by seed, of the entry and of the reference.
        interest: the smallest difference of interest, as a share; None if seeds were fixed.
    """

    condition: Condition
    ours: pd.Series
    theirs: pd.Series
    interest: float | None = None

    @property
    def verdict(self) -> str:
        """The outcome of the test, in words."""
        if self.difference is None:
            return "no seed in common"
        if self.difference.n == 1:
            return "n = 1 is too small for a test"
        if self.adjusted is None:
            return "no test: all differences are alike"
        if self.resolved:
            return "higher" if self.difference.mean > 0 else "lower"
        if self.is_small:
            return f"smaller than {counted(100 * (self.interest or 0), 'point')}"
        return "not resolved"

    @property
    def is_small(self) -> bool:
        """Whether the difference is decided without being resolved: too small to be of interest."""
        if self.resolved or self.difference is None or self.interest is None:
            return False
        return is_decided(self.difference, self.adjusted, self.interest)

    @property
    def seeds(self) -> list[int]:
        """The seeds that both have."""
        return list(self.ours.index.intersection(self.theirs.index))

    @property
    def differences(self) -> list[float]:
        """The difference for each common seed."""
        return paired(list(self.ours[self.seeds]), list(self.theirs[self.seeds])).tolist()

    def trials(self, study: StudyData) -> tuple[str, ...]:
        """Return the fingerprints of the trials of both sides."""
        return study.behind(self.entry, self.seeds) + study.behind(self.reference, self.seeds)

    def turned(self) -> Comparison:
        """Return the comparison with its sides swapped: the reference minus the entry."""
        return replace(
            self,
            entry=self.reference,
            reference=self.entry,
            ours=self.theirs,
            theirs=self.ours,
            difference=self.difference and negated(self.difference),
        )


def negated(difference: PairedDifference) -> PairedDifference:
    """Return the difference with the opposite sign."""
    low, high = (None if end is None else -end for end in (difference.high, difference.low))
    return replace(difference, mean=-difference.mean, low=low, high=high)


@lru_cache(maxsize=1)
def comparisons(study: StudyData) -> list[Comparison]:
    """Return all declared comparisons, by condition: against each null, then between routers."""
    made = list[Comparison]()
    for condition in study.conditions:
        entries = {entry.system: entry for entry in study.under(condition)}
        references = [entries[null] for null in nulls(study) if null in entries]
        routers = [entry for entry in entries.values() if entry not in references]
        others = [study.under(other) for other in study.conditions if other != condition]
        made += compare(study, condition, declared(routers, references), others)
    return made


def compare(
    study: StudyData,
    condition: Condition,
    pairs: Sequence[tuple[Entry, Entry]],
    others: Sequence[Sequence[Entry]] = (),
) -> list[Comparison]:
    """Return the comparison of each pair of an entry and a reference, as one family.

    Args:
        others: the entries under other conditions, whose variances moderate those of the family.
    """
    values = {entry: study.final(METRIC, entry) for pair in pairs for entry in pair}
    by_seed = {entry: dict(accuracies) for entry, accuracies in values.items()}
    elsewhere = [{entry: dict(study.final(METRIC, entry)) for entry in each} for each in others]
    return [
        Comparison(
            **vars(compared),
            condition=condition,
            ours=values[compared.entry],
            theirs=values[compared.reference],
            interest=study.smallest_of_interest,
        )
        for compared in family(by_seed, pairs, study.planned_analyses, elsewhere)
    ]


def against_nulls(study: StudyData) -> list[Comparison]:
    """Return the comparisons of routers with nulls."""
    return [c for c in comparisons(study) if study.is_baseline(c.reference.system)]


def against_best(study: StudyData) -> list[Comparison]:
    """Return the comparisons with the best router under each condition, as router minus best."""
    winners = {condition: best(study, condition) for condition in study.conditions}
    between = [c for c in comparisons(study) if not study.is_baseline(c.reference.system)]
    turned = [c.turned() if c.entry == winners[c.condition] else c for c in between]
    return [c for c in turned if c.reference == winners[c.condition]]


def best(study: StudyData, condition: Condition) -> Entry | None:
    """Return the router with the highest mean accuracy, or the best null if there are no routers.

    Only those with the most seeds qualify, so that the one lucky run of a router whose other runs
    failed is not best. The first of equals is taken.
    """
    means = _means(study, condition)
    routers = {e: v for e, v in means.items() if not study.is_baseline(e.system)} or means
    most = max(map(len, routers.values()), default=0)
    full = [entry for entry, by_seed in routers.items() if len(by_seed) == most]
    return max(full, key=lambda entry: means[entry].mean(), default=None)


def leader(study: StudyData, condition: Condition) -> Entry | None:
    """Return the best router, or a baseline or null that surpasses it with no fewer seeds."""
    winner, means = best(study, condition), _means(study, condition)
    if winner is None:
        return None
    rivals = [winner, *(entry for entry in means if study.is_baseline(entry.system))]
    full = [entry for entry in rivals if len(means[entry]) >= len(means[winner])]
    return max(full, key=lambda entry: means[entry].mean())


def higher_of_fewer(study: StudyData, condition: Condition) -> list[Entry]:
    """Return the entries with a higher mean than the leader but fewer seeds."""
    first, means = leader(study, condition), _means(study, condition)
    return [e for e, values in means.items() if first and values.mean() > means[first].mean()]


def _means(study: StudyData, condition: Condition) -> dict[Entry, pd.Series]:
    """Return the accuracies by seed of each entry that has any."""
    return {e: own for e in study.under(condition) if len(own := study.final(METRIC, e))}


def nulls(study: StudyData) -> list[System]:
    """Return the baselines and nulls of a study, the standard nulls first."""
    systems = [system for system in study.systems if study.is_baseline(system)]
    usual = {name: place for place, name in enumerate(NULLS)}
    return sorted(systems, key=lambda system: usual.get(system.router, len(usual)))
