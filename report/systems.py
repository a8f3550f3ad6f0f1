"""Systems: where a study has several kinds of experts, a router is told together with its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from report.conditions import NUMBER, Entry
from results.conditions import TWIN, is_twin

DENSE = "dense"


SEPARATOR = " + "


NAME = "experts.name"


def router_of(system: str) -> str:
    """The router of a system, by the name that it is registered under."""
    return of_twin(system).partition(SEPARATOR)[0]


def of_twin(system: str) -> str:
    """The system that a twin is the control of; any other is its own."""
    return system.replace(TWIN, "")


@dataclass(frozen=True)
class Systems:
    """How the rows of a study are told.

    Attributes:
        usual: the experts of most rows, as `8 mlp` or `mlp`; None where all have the same.
        numbered: whether the number of experts belongs to the system, and is no condition.
    """

    usual: str | None = None
    numbered: bool = False

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Systems:
        """Those of rows as they are in the database, with `experts.name` in their conditions."""
        rows = [e for e in entries if e.router != DENSE and not is_twin(e.router)]
        names = Counter(entry.condition.mapping.get(NAME) for entry in rows)
        if len(names) < 2 or None in names:
            return cls()
        holders: dict[str | None, set[tuple[str, str | None]]] = defaultdict(set)
        for entry in rows:
            holders[entry.condition.mapping.get(NUMBER)].add(
                (entry.router, entry.condition.mapping[NAME])
            )
        # A number that a single system has is part of it; one that several have is swept over.
        numbered = any(len(systems) == 1 for systems in holders.values())
        told = Counter(_experts(entry.condition.mapping, numbered) for entry in rows)
        return cls(told.most_common(1)[0][0], numbered)

    def told(self, entry: Entry) -> Entry:
        """The row's system, under the condition that is left."""
        values = entry.condition.mapping
        if self.usual is None or NAME not in values:
            return entry
        experts = _experts(values, self.numbered)
        unsaid = entry.router == DENSE or experts == self.usual
        gone = {NAME, NUMBER} if self.numbered else {NAME}
        left = entry.condition.where(lambda path: path not in gone)
        return Entry(entry.router if unsaid else f"{entry.router}{SEPARATOR}{experts}", left)


def _experts(values: dict[str, str], numbered: bool) -> str:
    return " ".join(filter(None, (values.get(NUMBER, "") if numbered else "", values[NAME])))
