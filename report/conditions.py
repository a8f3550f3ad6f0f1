"""What a row is about: a router under a condition, and how conditions contain each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from results.conditions import Condition
from results.settings import PARENT

NUMBER = "experts.num_experts"
"""The setting that figures against the number of experts draw along an axis, or by panel."""
ANY = Condition()
"""The condition where nothing differs but router and seed."""


@dataclass(frozen=True, order=True)
class Entry:
    """A router under a condition."""

    router: str
    condition: Condition = ANY

    @property
    def settings(self) -> frozenset[tuple[str, str]]:
        """The condition as a set of paths with their values."""
        return frozenset(self.condition.settings)

    def stands_beside(self, other: Entry) -> bool:
        """Whether the two compare: one belongs to the condition of the other."""
        return any(
            closest([one], one.router, condition) is not None
            for one, condition in ((self, other.condition), (other, self.condition))
        )

    @property
    def order(self) -> list[tuple[float, str]]:
        """Sorts conditions by path, and then by value: numbers as numbers."""
        return [_numeric(part) for pair in self.condition.settings for part in pair]


def without_options(condition: Condition, suite: str) -> Condition:
    """The condition of a trial or layer, without what differs in the options of a suite."""
    return condition.where(lambda path: not path.startswith(f"{suite}."))


def without_number(condition: Condition) -> Condition:
    """The condition, but for the number of experts."""
    return condition.where(lambda path: path != NUMBER)


def fullest(entries: Iterable[Entry]) -> list[Condition]:
    """The conditions to show apart, each once, in order.

    Those left out are just a part of others, and each of their entries stands beside those.
    """
    entries = list(entries)
    conditions = dict.fromkeys(entry.condition for entry in entries)
    apart = {entry.condition for entry in entries if not _stands_beside(entry, entries, conditions)}
    return [condition for condition in conditions if condition in apart]


def _stands_beside(entry: Entry, entries: list[Entry], conditions: Iterable[Condition]) -> bool:
    own = [other for other in entries if other.router == entry.router]
    return any(
        entry.settings < frozenset(condition.settings)
        and closest(own, entry.router, condition) == entry
        for condition in conditions
    )


def closest(entries: Iterable[Entry], router: str, condition: Condition) -> Entry | None:
    """The entry of a router that belongs to a condition: the fullest that is a part of it.

    A router that lacks a swept setting was trained under a part of the others' conditions only. To
    a derived trial belong those that were derived alike, and those that were trained as its parent
    was.
    """
    told = frozenset(condition.settings)
    as_parent = _of_parent(condition)
    own = [entry for entry in entries if entry.router == router]
    agreeing = [e for e in own if e.settings <= (told if _derivation(e.condition) else as_parent)]
    return max(agreeing, key=lambda entry: len(entry.settings), default=None)


def closest_layer(layers: Iterable[Entry], entry: Entry) -> Entry | None:
    """The bare layer of an entry: it lacks the settings of training, and where they started."""
    return closest(layers, entry.router, entry.condition.where(lambda path: not _derives(path)))


def _derives(path: str) -> bool:
    """Whether a setting tells where a derived trial started."""
    return path == "transform" or path.startswith("parent")


def _derivation(condition: Condition) -> Condition:
    """What a condition tells of where a derived trial started."""
    return condition.where(_derives)


def _of_parent(condition: Condition) -> frozenset[tuple[str, str]]:
    """The settings that a derived trial's parent has: its own where they are told."""
    own = {path: value for path, value in condition.settings if not _derives(path)}
    inherited = {
        path.removeprefix(PARENT): value
        for path, value in condition.settings
        if path.startswith(PARENT)
    }
    return frozenset((own | inherited).items())


def _numeric(part: str) -> tuple[float, str]:
    try:
        return float(part), ""
    except ValueError:
        return float("inf"), part
