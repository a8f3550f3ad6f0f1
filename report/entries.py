"""What a row is about: a router under a condition, and how conditions contain each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NUMBER = "experts.num_experts="
"""The setting that figures against the number of experts draw along an axis, or by panel."""


@dataclass(frozen=True, order=True)
class Entry:
    """A router under a condition ("" where nothing differs but router and seed)."""

    router: str
    condition: str

    @property
    def settings(self) -> frozenset[str]:
        """The condition as a set of `path=value`."""
        return frozenset(settings(self.condition))

    def stands_beside(self, other: Entry) -> bool:
        """Whether the two compare: one belongs to the condition of the other."""
        return any(
            closest([one], one.router, condition) is not None
            for one, condition in ((self, other.condition), (other, self.condition))
        )

    @property
    def order(self) -> list[tuple[float, str]]:
        """Sorts conditions by path, and then by value: numbers as numbers."""
        pairs = map(_pair, settings(self.condition))
        return [_numeric(part) for pair in pairs for part in pair]


def settings(condition: str) -> list[str]:
    """The `path=value` of a condition; a value may hold spaces."""
    return re.split(r" (?=[\w.]+=)", condition) if condition else []


def without_options(condition: str, suite: str) -> str:
    """The condition of a trial or layer, without what differs in the options of a suite."""
    return " ".join(part for part in settings(condition) if not part.startswith(f"{suite}."))


def without_number(condition: str) -> str:
    """The condition, but for the number of experts."""
    return " ".join(part for part in settings(condition) if not part.startswith(NUMBER))


def fullest(entries: Iterable[Entry]) -> list[str]:
    """The conditions to show apart, each once, in order.

    Those left out are just a part of others, and each of their entries stands beside those.
    """
    entries = list(entries)
    conditions = dict.fromkeys(entry.condition for entry in entries)
    apart = {entry.condition for entry in entries if not _stands_beside(entry, entries, conditions)}
    return [condition for condition in conditions if condition in apart]


def _stands_beside(entry: Entry, entries: list[Entry], conditions: Iterable[str]) -> bool:
    own = [other for other in entries if other.router == entry.router]
    return any(
        entry.settings < frozenset(settings(condition))
        and closest(own, entry.router, condition) == entry
        for condition in conditions
    )


def closest(entries: Iterable[Entry], router: str, condition: str) -> Entry | None:
    """The entry of a router that belongs to a condition: the fullest that is a part of it.

    A router that lacks a swept setting was trained under a part of the others' conditions only. To
    a derived trial belong those that were derived alike, and those that were trained as its parent
    was.
    """
    told = frozenset(settings(condition))
    as_parent = _of_parent(condition)
    own = [entry for entry in entries if entry.router == router]
    agreeing = [e for e in own if e.settings <= (told if _derivation(e.condition) else as_parent)]
    return max(agreeing, key=lambda entry: len(entry.settings), default=None)


def closest_layer(layers: Iterable[Entry], entry: Entry) -> Entry | None:
    """The bare layer of an entry: it lacks the settings of training, and where they started."""
    derivation = _derivation(entry.condition)
    own = " ".join(part for part in settings(entry.condition) if part not in derivation)
    return closest(layers, entry.router, own)


def _derivation(condition: str) -> list[str]:
    """What a condition tells of where a derived trial started."""
    return [part for part in settings(condition) if part.startswith(("transform=", "parent"))]


def _of_parent(condition: str) -> frozenset[str]:
    """The settings that a derived trial's parent has: its own where they are told."""
    derivation = _derivation(condition)
    own = [part for part in settings(condition) if part not in derivation]
    inherited = [part.removeprefix("parent.") for part in derivation if part.startswith("parent.")]
    last = dict(map(_pair, (*own, *inherited)))
    return frozenset(f"{path}={value}" for path, value in last.items())


def _pair(setting: str) -> tuple[str, str]:
    path, _, value = setting.partition("=")
    return path, value


def _numeric(part: str) -> tuple[float, str]:
    try:
        return float(part), ""
    except ValueError:
        return float("inf"), part
