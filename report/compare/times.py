"""The timings of two sides: each system at one setting, on one machine, once on each side."""

import json
from collections import defaultdict
from dataclasses import dataclass

from report.compare import Comparison
from report.compare.sides import DISTURBED, FORWARD, Side
from report.conditions import Entry, closest_layer

SETTING = ("scope", "shape", "batch")
"""What sets timings apart: of layers by their shape, of whole models by their batch."""


@dataclass(frozen=True)
class Time:
    """The median of `forward_ms`; `disturbed` by other processes, or not."""

    ms: float
    disturbed: bool


@dataclass(frozen=True)
class Timed:
    """A system that was timed at one setting on both sides."""

    entry: Entry
    a: Time
    b: Time

    @property
    def disturbed(self) -> bool:
        """Whether other processes disturbed either."""
        return self.a.disturbed or self.b.disturbed


def timed(made: Comparison) -> tuple[str, list[Timed]]:
    """Return the setting that most systems were timed at on both sides, and their times.

    It names the machine, which is the same. Layers come before whole models. "" where nothing was
    timed on one machine on both sides.
    """
    a, b = _times(made, made.a), _times(made, made.b)
    both = {s: [e for e in made.entries if e in a[s] and e in b[s]] for s in a if s in b}
    shared = {setting: entries for setting, entries in both.items() if entries}
    chosen = max(shared, key=lambda s: ("layer" in s, len(shared[s]), s), default="")
    return chosen, [Timed(e, a[chosen][e], b[chosen][e]) for e in shared.get(chosen, [])]


def _times(made: Comparison, side: Side) -> dict[str, dict[Entry, Time]]:
    """Return the times of a side's systems by setting."""
    rows = made.layers(side)
    disturbed = {
        (row.trial, row.machine, _setting(json.loads(row.where)))
        for row in rows[(rows["metric"] == DISTURBED) & (rows["value"] == 1)].itertuples()
    }
    by_setting: dict[str, dict[Entry, Time]] = defaultdict(dict)
    for row in rows[rows["metric"] == FORWARD].itertuples():
        where = json.loads(row.where)
        if where.get("quantile") == 0.5:
            place = _setting(where)
            name = f"{place}, on {row.machine_name} ({row.machine[:6]})"
            time = Time(row.value, (row.trial, row.machine, place) in disturbed)
            by_setting[name][made.named[row.trial]] = time
    return {
        setting: {
            entry: times[layer]
            for entry in made.systems(side)
            if (layer := closest_layer(times, entry)) is not None
        }
        for setting, times in by_setting.items()
    }


def _setting(where: dict[str, object]) -> str:
    return ", ".join(f"{key} {where[key]}" for key in SETTING if key in where)
