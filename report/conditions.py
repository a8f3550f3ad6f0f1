"""Entries (a system under a condition), and which conditions contain which."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pandas as pd

from results import ArrayRecord
from results.conditions import Condition, router_label
from results.settings import PARENT

DENSE = "dense"
NAME = "experts.name"
NUMBER = "experts.num_experts"
"""The setting that figures over the number of experts draw along an axis, or as panels."""
ANY = Condition()
"""The condition of a study in which only router and seed differ."""


@dataclass(frozen=True)
class System:
    """A router with its experts, as a study compares it.

    Attributes:
        router: the registered name.
        experts: their name; None for the usual ones.
        num_experts: the value in the condition; None if it does not distinguish systems.
        display: the router's name in papers; "" if only the registered name is known.
    """

    router: str
    experts: str | None = None
    num_experts: str | None = None
    display: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The system's name for readers: `μMoE + 64 cp`."""
        return self._with_experts(self.display or self.router)

    @property
    def key(self) -> str:
        """The system by its router's registered name: `mumoe + 64 cp`."""
        return self._with_experts(self.router)

    def _with_experts(self, router: str) -> str:
        return " + ".join(filter(None, (router, experts_label(self.num_experts, self.experts))))

    def __str__(self) -> str:
        return self.label


def experts_label(number: str | None, name: str | None) -> str:
    """Return the name of experts for readers: `64 cp`."""
    return " ".join(filter(None, (number, name)))


@dataclass(frozen=True)
class Entry:
    """A system under a condition.

    Attributes:
        aa_replicate: 1 for a router's second run in the A/A control, which is not ranked.
    """

    system: System
    condition: Condition = ANY
    aa_replicate: int = 0

    @property
    def label(self) -> str:
        """The system's name for readers, with the number of the A/A replicate if it is one."""
        return router_label(self.system.label, self.aa_replicate)

    @property
    def full_label(self) -> str:
        """The label with its condition."""
        return f"{self.label} {self.condition}".strip()

    @property
    def settings(self) -> frozenset[tuple[str, str]]:
        """The condition as a set of paths with their values."""
        return frozenset(self.condition.settings)

    def compares_with(self, other: Entry) -> bool:
        """Tell whether two entries are comparable: one belongs to the condition of the other."""
        return any(
            closest([one], one.system, condition) is not None
            for one, condition in ((self, other.condition), (other, self.condition))
        )

    @property
    def order(self) -> list[tuple[float, str]]:
        """A sort key of the condition: by path, then by value, with numbers in numeric order."""
        return [_numeric(part) for pair in self.condition.settings for part in pair]


def without_options(condition: Condition, suite: str) -> Condition:
    """Return the condition of a trial or layer, without the options of a suite."""
    return condition.where(lambda path: not path.startswith(f"{suite}."))


def without_number(condition: Condition) -> Condition:
    """Return the condition without the number of experts."""
    return condition.where(lambda path: path != NUMBER)


def fullest(entries: Iterable[Entry]) -> list[Condition]:
    """Return the conditions to show separately, each once, in order.

    A condition is left out if every entry in it also belongs to a condition that contains it.
    """
    entries = list(entries)
    conditions = dict.fromkeys(entry.condition for entry in entries)

    def belongs_to_others(entry: Entry) -> bool:
        own = [other for other in entries if other.system == entry.system]
        return any(
            entry.settings < frozenset(condition.settings)
            and closest(own, entry.system, condition) == entry
            for condition in conditions
        )

    apart = {entry.condition for entry in entries if not belongs_to_others(entry)}
    return [condition for condition in conditions if condition in apart]


def closest(entries: Iterable[Entry], system: System, condition: Condition) -> Entry | None:
    """Return a system's entry under a condition: the one that shares the most settings with it.

    None of its settings may differ, but a router without a swept setting lacks that one. The
    condition of a derived trial matches entries derived in the same way, and trained entries with
    the settings of its parent.
    """
    settings = condition.mapping
    own = {path: value for path, value in settings.items() if not _derives(path)}
    inherited = {
        path.removeprefix(PARENT): value
        for path, value in settings.items()
        if path.startswith(PARENT)
    }
    as_parent = frozenset((own | inherited).items())
    agreeing = [
        entry
        for entry in entries
        if entry.system == system
        and entry.settings
        <= (settings.items() if any(map(_derives, entry.condition.mapping)) else as_parent)
    ]
    return max(agreeing, key=lambda entry: len(entry.settings), default=None)


def closest_layer(layers: Iterable[Entry], entry: Entry) -> Entry | None:
    """Return the bare layer of an entry; a layer has no training settings and is not derived."""
    return closest(layers, entry.system, entry.condition.where(lambda path: not _derives(path)))


def _derives(path: str) -> bool:
    """Tell whether a setting describes how a trial was derived."""
    return path == "transform" or path.startswith("parent")


def _numeric(part: str) -> tuple[float, str]:
    try:
        return float(part), ""
    except ValueError:
        return float("inf"), part


def displays(components: pd.DataFrame) -> dict[str, str]:
    """Return the names of routers in papers, by registered name.

    Args:
        components: see `results.frames.components_frame`.
    """
    routers = components.loc[components["kind"] == "router", ["name", "display"]].dropna()
    return dict(routers.itertuples(index=False))


@dataclass(frozen=True)
class Systems:
    """The naming of a study's systems: by router, and by experts if there are several kinds.

    Attributes:
        usual: number and name of the most frequent experts; None if all have the same.
        numbered: whether the number of experts is part of the system, not of the condition.
        displays: names of routers in papers, by registered name.
    """

    usual: tuple[str | None, str] | None = None
    numbered: bool = False
    displays: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Systems:
        """Derive the naming from entries that still have `experts.name` as a setting."""
        rows = [e for e in entries if e.system.router != DENSE and not e.aa_replicate]
        names = Counter(entry.condition.mapping.get(NAME) for entry in rows)
        if len(names) < 2 or None in names:
            return cls()
        holders: dict[str | None, set[tuple[str, str | None]]] = defaultdict(set)
        for entry in rows:
            holders[entry.condition.mapping.get(NUMBER)].add(
                (entry.system.router, entry.condition.mapping[NAME])
            )
        # A number that only one system has is part of it; one that several share is swept.
        numbered = any(len(systems) == 1 for systems in holders.values())
        usual = Counter(_experts(entry.condition.mapping, numbered) for entry in rows)
        return cls(usual.most_common(1)[0][0], numbered)

    def named(self, entry: Entry) -> Entry:
        """Move the experts from an entry's condition into its system, and add the display name."""
        values, router = entry.condition.mapping, entry.system.router
        system = replace(entry.system, display=self.displays.get(router, ""))
        if self.usual is None or NAME not in values:
            return replace(entry, system=system)
        number, name = _experts(values, self.numbered)
        unsaid = router == DENSE or (number, name) == self.usual
        gone = {NAME, NUMBER} if self.numbered else {NAME}
        left = entry.condition.where(lambda path: path not in gone)
        if not unsaid:
            system = replace(system, experts=name, num_experts=number)
        return replace(entry, system=system, condition=left)

    def name_rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add the columns `entry` and `system`; `condition` becomes that of the entry.

        The condition of a measurement leaves out the options of its suite.
        """

        @cache
        def named(router: str, settings: str, aa_replicate: int, suite: str = "") -> Entry:
            condition = Condition.of(json.loads(settings))
            if suite:
                condition = without_options(condition, suite)
            return self.named(Entry(System(router), condition, aa_replicate))

        own = [name for name in ("router", "settings", "aa_replicate", "suite") if name in frame]
        entries = [named(*row) for row in frame[own].itertuples(index=False)]
        made = {
            "system": [entry.system for entry in entries],
            "condition": [entry.condition for entry in entries],
            "entry": entries,
        }
        return frame.assign(**{k: pd.Series(own, frame.index, object) for k, own in made.items()})

    def name_arrays(self, records: Iterable[ArrayRecord]) -> dict[Entry, list[ArrayRecord]]:
        """Group arrays by entry, the newest if one was measured with several options of a suite."""
        newest: dict[Entry, dict[tuple[Any, ...], ArrayRecord]] = defaultdict(dict)
        for record in records:
            bare = without_options(record.condition, record.suite)
            entry = self.named(Entry(System(record.router), bare, record.aa_replicate))
            where = json.dumps(record.where, sort_keys=True)
            place = (record.name, record.layer, record.step, record.split, where)
            newest[entry][record.suite, record.seed, *place] = record
        return {entry: list(arrays.values()) for entry, arrays in newest.items()}


def _experts(values: dict[str, str], numbered: bool) -> tuple[str | None, str]:
    return (values.get(NUMBER) if numbered else None), values[NAME]
