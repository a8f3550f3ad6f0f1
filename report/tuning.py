"""How the settings of each router were found, as the study's request says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from report.study import StudyData
from report.systems import router_of
from results.text import counted


@dataclass(frozen=True)
class Tuned:
    """Of one router.

    Attributes:
        trials: those that are over; of them `done`, `pruned` and `failed`.
        values: of each trial in order, the share of the validation split that was right when it
            ended; None where it left no model.
        best: the highest of those that are done.
        settings: with which it was, by path.
        training: its fingerprint.
        trainings: those of each trial in order, where they are known.
    """

    trials: int
    done: int
    pruned: int
    failed: int
    values: tuple[float | None, ...]
    best: float
    settings: dict[str, Any]
    training: str
    trainings: tuple[str | None, ...] = ()

    @property
    def scores(self) -> list[float]:
        """Of each trial in order; one that left no model got nothing right."""
        return [value or 0.0 for value in self.values]


def tuned(study: StudyData) -> dict[str, Tuned]:
    """Each system of the study whose router's settings were found, in order."""
    asked: dict[str, dict[str, Any]] = study.record.request.get("tuned", {})
    found = {name: Tuned(**(fields | _tuples(fields))) for name, fields in asked.items()}
    return {s: found[router_of(s)] for s in study.routers if router_of(s) in found}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a request keeps as lists."""
    return {name: tuple(fields.get(name, ())) for name in ("values", "trainings")}


def unequal(study: StudyData) -> str:
    """The warning that some routers had more trials than others; "" where all had as many."""
    found = tuned(study)
    if not found:
        return ""
    routers: dict[int, list[str]] = defaultdict(list)
    for name in study.routers:
        routers[found[name].trials if name in found else 0].append(name)
    if len(routers) < 2:
        return ""
    told = "; ".join(f"{n} for {', '.join(routers[n])}" for n in sorted(routers, reverse=True))
    return f"Tuning was not equal: {told} (trials). What had more has an advantage."


def sentence(study: StudyData) -> str:
    """With how many trials each router was tuned; "" where none was."""
    found = tuned(study)
    counts = {each.trials for each in found.values()}
    if not found:
        return ""
    equal = f"Each router was tuned with {counted(min(counts), 'trial')}, on the validation split."
    return unequal(study) or equal


def told(settings: Mapping[str, Any]) -> str:
    """`router.affinity=cosine train.lr=0.00123`."""
    return " ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in sorted(settings.items())
    )
