"""What a report does not show, and why: said in its place, so that nothing is silently missing."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from results.conditions import Condition

LONGEST = 100
"""Letters of a condition in the name of a file."""


@dataclass(frozen=True)
class Absent:
    """A table or figure that the study has no data for. `fine`: there is nothing that it lacks."""

    name: str
    title: str
    why: str
    fine: bool = False


def said_once(parts: Iterable[Absent]) -> list[Absent]:
    """The parts, those that are missing for one reason as one: it names them all."""
    found: dict[tuple[str, bool], list[Absent]] = {}
    for part in parts:
        found.setdefault((part.why, part.fine), []).append(part)
    return [
        replace(alike[0], title="; ".join(dict.fromkeys(part.title for part in alike)))
        for alike in found.values()
    ]


def file_name(name: str, condition: Condition | str) -> str:
    """The name of a part that is made once for each condition: letters, digits, `-`, `_`."""
    label = str(condition)
    told = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
    if len(told) > LONGEST:  # a file system takes 255 bytes
        told = f"{told[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{name}--{told}" if told else name


def told_runs(runs: Mapping[str, int]) -> str:
    """The number of runs of each router: `n = 3; soft_moe n = 2`."""
    usual = Counter(runs.values()).most_common(1)[0][0]
    unusual = [f"{name} n = {n}" for name, n in runs.items() if n != usual]
    return "; ".join([f"n = {usual}", *unusual])


def title(text: str, condition: Condition | str) -> str:
    """A title that names its condition, where there is one."""
    return f"{text}, {condition}" if condition else text
