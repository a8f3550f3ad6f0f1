"""The comparison of two sides, system by system: paired differences, and what only one side has.

A system is a router under the settings in which trials of either study differ. Differences are
paired by seed. Seeds need not mean the same on both sides, for example if the data differ, and then
the noise of all systems says nothing about that of one. So each difference has its own paired t
test, and Bonferroni's correction makes tests and intervals hold for all systems at once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from report.compare.sides import TOP1, TRAINING, Side, known_text, known_versions, load_side
from report.conditions import Entry, System, Systems, closest_layer, displays
from results import Store, StoreError
from results.conditions import conditions_at
from results.frames import ENVIRONMENT, components_frame
from results.settings import REPLICATE
from results.statistics.means import ALPHA, PairedDifference, paired_difference

SAME = "the same trials"


@dataclass(frozen=True)
class Value:
    """A number of one run, with its measurement, machine and trial."""

    value: float
    measurement: int
    machine: str
    trial: str


Runs = Mapping[int, Value]
"""A metric of one system by seed."""


@dataclass(frozen=True)
class Change:
    """A metric of one system on both sides, and B minus A over the seeds that both have.

    Attributes:
        a, b: the runs of each side.
        seeds: the paired seeds; those whose run both sides share count only if all are shared.
        difference: None without a pair. If it is tested, its interval is simultaneous.
        tests: the number of systems tested together with it; 0 if it is not tested.
    """

    entry: Entry
    a: Runs
    b: Runs
    seeds: tuple[int, ...]
    difference: PairedDifference | None
    tests: int = 0

    @property
    def shared(self) -> list[int]:
        """The seeds whose run is the same one on both sides."""
        both = sorted(self.a.keys() & self.b.keys())
        return [seed for seed in both if self.a[seed].measurement == self.b[seed].measurement]

    @property
    def is_same(self) -> bool:
        """Whether each pair is a single run that both sides share."""
        return bool(self.seeds) and set(self.seeds) <= set(self.shared)

    @property
    def adjusted(self) -> float | None:
        """The p-value corrected for all tested systems (Bonferroni); None without a test."""
        if not self.tests or self.difference is None or self.difference.p_value is None:
            return None
        return min(1.0, self.tests * self.difference.p_value)

    @property
    def resolved(self) -> bool:
        """Whether the sides differ, at an error rate that holds for all systems together."""
        return self.adjusted is not None and self.adjusted < ALPHA

    @property
    def verdict(self) -> str:
        """The outcome of the test, in words."""
        if self.difference is None:
            return "no seed in common"
        if self.is_same:
            return SAME
        if self.difference.n == 1:
            return "n = 1 is too small for a test"
        if self.adjusted is None:
            return "no test: all differences are alike"
        return "resolved" if self.resolved else "not resolved"

    def mean(self, side: Runs) -> float | None:
        """Return the mean over the paired seeds, or over all of the side's if there is no pair."""
        values = [side[seed].value for seed in self.seeds or side]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sides, and the systems that both have."""

    a: Side
    b: Side
    displays: Mapping[str, str]
    """The names of routers in papers, by registered name."""

    @cached_property
    def named(self) -> dict[str, Entry]:
        """The system of each trial and layer, by fingerprint, named the same way on both sides."""
        described = self.a.descriptions | self.b.descriptions
        made = conditions_at(self.a.paths | self.b.paths, list(described.values()))
        bare = {
            fingerprint: Entry(System(about["router"]["name"]), condition, about.get(REPLICATE, 0))
            for (fingerprint, about), condition in zip(described.items(), made, strict=True)
        }
        systems = replace(Systems.of(dict.fromkeys(bare.values())), displays=self.displays)
        return {fingerprint: systems.named(entry) for fingerprint, entry in bare.items()}

    @cached_property
    def entries(self) -> list[Entry]:
        """The systems that both sides have, in the order of A."""
        return [entry for entry in self.systems(self.a) if entry in self.systems(self.b)]

    def only(self, side: Side) -> list[Entry]:
        """Return the systems that only this side has."""
        return [entry for entry in self.systems(side) if entry not in self.entries]

    def systems(self, side: Side) -> list[Entry]:
        """Return a side's systems: those of trials, then bare layers that belong to no trial."""
        trained = dict.fromkeys(self.named[trial] for trial in side.trials["trial"])
        layers = dict.fromkeys(self.named[each] for each in self.layers(side)["trial"])
        belonging = {closest_layer(layers, entry) for entry in trained}
        listed = [*trained, *(layer for layer in layers if layer not in belonging)]
        return [entry for entry in listed if not entry.aa_replicate]

    @staticmethod
    def layers(side: Side) -> pd.DataFrame:
        """Return a side's measurements of bare layers."""
        return side.metrics[side.metrics["seed"].isna()]

    def runs(self, side: Side, metric: str) -> dict[Entry, dict[int, Value]]:
        """Return a metric of a side's trials by system and seed."""
        rows = side.metrics[(side.metrics["metric"] == metric) & side.metrics["seed"].notna()]
        by_entry: dict[Entry, dict[int, Value]] = defaultdict(dict)
        for row in rows.dropna(subset=["value"]).itertuples():
            value = Value(row.value, int(row.measurement), row.machine, row.trial)
            by_entry[self.named[row.trial]][int(row.seed)] = value
        return by_entry

    def changes(self, metric: str = TOP1) -> list[Change]:
        """Compare a metric of the systems that both sides have, leaving out those without a value.

        Only top-1 is tested.
        """
        a, b = self.runs(self.a, metric), self.runs(self.b, metric)
        either = [entry for entry in self.entries if a.get(entry) or b.get(entry)]
        made = [_change(each, a.get(each, {}), b.get(each, {}), metric) for each in either]
        tested = [c for c in made if c.difference and c.difference.n > 1 and not c.is_same]
        if metric != TOP1 or not tested:
            return made
        return [_tested(c, len(tested)) if c in tested else c for c in made]

    @cached_property
    def pairs(self) -> list[tuple[Entry, str, str]]:
        """The compared trials: a system, and the fingerprints of its runs with one seed."""
        a, b = (self._trials(side) for side in (self.a, self.b))
        return [(key[0], trial, b[key]) for key, trial in a.items() if key in b]

    @cached_property
    def apart(self) -> list[pd.DataFrame]:
        """The environments of each side's own results of the common systems, without shared ones.

        For the columns, see `results.frames.ENVIRONMENT`.
        """
        frames = []
        for side, other in ((self.a, self.b), (self.b, self.a)):
            kept = []
            for own, others, row in (
                (side.trials, other.trials, "attempt"),
                (side.metrics, other.metrics, "measurement"),
            ):
                both = own["trial"].map(self.named).isin(self.entries + self._bare(side))
                mine = own[both & own["machine"].notna() & ~own[row].isin(others[row])]
                kept.append(mine[ENVIRONMENT])
            frames.append(pd.concat(kept))
        return frames

    def _bare(self, side: Side) -> list[Entry]:
        """Return the bare layers of the systems that both sides have."""
        layers = dict.fromkeys(self.named[each] for each in self.layers(side)["trial"])
        belonging = (closest_layer(layers, entry) for entry in self.entries)
        return [layer for layer in belonging if layer is not None]

    def _trials(self, side: Side) -> dict[tuple[Entry, int], str]:
        """Return the fingerprints of a side's trials by system and seed."""
        rows = side.trials[["trial", "seed"]].itertuples(index=False)
        return {(self.named[trial], int(seed)): trial for trial, seed in rows}


def _change(entry: Entry, a: Runs, b: Runs, metric: str) -> Change:
    seeds = sorted(a.keys() & b.keys())
    if metric == TRAINING:  # a time belongs to its machine
        seeds = [seed for seed in seeds if a[seed].machine == b[seed].machine]
    apart = [seed for seed in seeds if a[seed].measurement != b[seed].measurement]
    change = Change(entry, a, b, tuple(apart or seeds), None)
    return replace(change, difference=_difference(change)) if change.seeds else change


def _difference(change: Change, confidence: float = 1 - ALPHA) -> PairedDifference:
    a, b = ([side[seed].value for seed in change.seeds] for side in (change.a, change.b))
    return paired_difference(b, a, confidence)


def _tested(change: Change, tests: int) -> Change:
    """Return a change with an interval that holds simultaneously for all tests."""
    difference = _difference(change, 1 - ALPHA / tests)
    return replace(change, tests=tests, difference=difference)


def compare(store: Store, a: str, b: str) -> Comparison:
    """Compare two studies, or one study before and after a change of code.

    Args:
        a, b: `STUDY`, `STUDY@CODE` or `STUDY@TIME` (see `report.compare.sides`).

    Raises:
        StoreError: a side does not exist, both are the same, or they have no system in common.
    """
    made = Comparison(load_side(store, a), load_side(store, b), displays(components_frame(store)))
    if made.a.label == made.b.label:
        study = made.a.study
        raise StoreError(
            f"{a} and {b} are the same; name two studies, or one before and after a change, as "
            f"{study}@COMMIT or {study}@TIME; {study} was made by "
            f"{known_text(known_versions(store, study))}"
        )
    if not made.entries:
        has = " ".join(f"{side.label} has {listed(made.only(side))}." for side in (made.a, made.b))
        raise StoreError(f"{made.a.label} and {made.b.label} have no system in common. {has}")
    return made


def listed(entries: Sequence[Entry]) -> str:
    """List systems with their conditions, or return `none`."""
    return ", ".join(each.full_label for each in entries) or "none"
