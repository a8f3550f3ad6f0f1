"""The A/A control: each router against its twin, which differs by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from report.comparisons import METRIC
from report.entries import Entry
from report.study import StudyData
from report.timings import Setting, Timing, of_entry, representative, timings
from results.statistics import ALPHA, Compared, family
from results.statistics.control import Alarms, alarms, noise_floor

ROUTER, TWIN = "router", "twin"


@dataclass(frozen=True)
class Control:
    """A router and its twin under one condition.

    Attributes:
        compared: twin less router, tested as any two routers are, but as a family of its own.
        differences: those by seed.
        trials: the fingerprints behind them, the twin's first.
    """

    entry: Entry
    compared: Compared
    differences: tuple[float, ...]
    trials: tuple[str, ...]

    @property
    def p_value(self) -> float | None:
        difference = self.compared.difference
        return None if difference is None else difference.p_value

    @property
    def alarm(self) -> bool | None:
        """Whether the test sees a difference where there is none; None where there is no test."""
        return None if self.p_value is None else self.p_value < ALPHA

    @property
    def noise_floor(self) -> float | None:
        """For as many seeds as there are pairs; None without a pair."""
        found = self.differences
        return noise_floor(found, len(found)) if found else None


def controls(study: StudyData) -> list[Control]:
    """A control for each twin, in the order of the routers."""
    return [_control(study, entry, twin) for entry, twin in study.twins.items()]


def raised(found: Sequence[Control]) -> Alarms | None:
    """The measured rate of false alarms over all controls; None where nothing could be tested."""
    p_values = [control.p_value for control in found if control.p_value is not None]
    return alarms(p_values) if p_values else None


def floor_of_all(found: Sequence[Control]) -> tuple[float, int] | None:
    """The noise floor from the differences of all controls, and the seeds that it is for."""
    pooled = [difference for control in found for difference in control.differences]
    n = max((len(control.differences) for control in found), default=0)
    return (noise_floor(pooled, n), n) if n else None


@dataclass(frozen=True)
class Retimed:
    """A bare layer or model, and its twin, timed in two processes at one setting."""

    router: Timing
    twin: Timing

    def ratio(self, key: str) -> float | None:
        """A number of the twin's over the router's; None where one of them has none."""
        ours, theirs = self.router.values.get(key), self.twin.values.get(key)
        return theirs / ours if ours and theirs is not None else None

    def is_disturbed(self, key: str) -> bool:
        """Whether other processes disturbed one of the two."""
        return self.router.is_disturbed(key) or self.twin.is_disturbed(key)


def retimed(study: StudyData) -> list[Retimed]:
    """Every timing that has a twin's beside it."""
    twins = {(timing.setting, timing.entry): timing for timing in timings(study, twins=True)}
    return [
        Retimed(timing, twins[place])
        for timing in timings(study)
        if (place := (timing.setting, timing.entry)) in twins
    ]


def retimed_of(found: Sequence[Retimed], entry: Entry) -> Retimed | None:
    """The one of an entry at the setting that a table has room for."""
    chosen = of_entry([each.router for each in found], setting_of(found), entry)
    return next((each for each in found if each.router is chosen), None)


def setting_of(found: Sequence[Retimed]) -> Setting | None:
    """The setting that a table has room for."""
    return representative([each.router for each in found])


def deviations(found: Sequence[Retimed], key: str) -> tuple[float, float] | None:
    """By how much two processes differ in a number, as a share: the median, and the most."""
    ratios = [ratio for each in found if (ratio := each.ratio(key)) is not None]
    shares = [max(ratio, 1 / ratio) - 1 for ratio in ratios if ratio > 0]
    return (median(shares), max(shares)) if shares else None


def _control(study: StudyData, entry: Entry, twin: Entry) -> Control:
    ours, theirs = study.final(METRIC, entry), study.final(METRIC, twin)
    seeds = list(ours.index.intersection(theirs.index))
    (compared,) = family(
        {ROUTER: dict(ours), TWIN: dict(theirs)}, [(TWIN, ROUTER)], study.planned_looks
    )
    return Control(
        entry,
        compared,
        tuple(theirs[seeds] - ours[seeds]),
        study.behind(twin, seeds) + study.behind(entry, seeds),
    )
