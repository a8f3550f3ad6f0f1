"""The tuning of each router's settings, as the study's request says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from report.conditions import Entry, System
from report.study import StudyData
from report.style import PAGE, panels, router_legend
from report.table import Cell, Column, Lacking, Row, number, text_columns, words
from report.topics.make import Contents, Sketch, as_figure, as_table
from results.statistics.ranks import expected_best
from results.text import counted

UNTUNED = "no settings were tuned (tune, then run --tuned)"


@dataclass(frozen=True)
class Tuned:
    """The tuning of one router.

    Attributes:
        trials: number of trials that are over; of them `done`, `pruned` and `failed`.
        best: the highest accuracy of a trial that is done.
        settings: the settings of the best trial, by path.
        training: the fingerprint of the best trial.
        values: of each trial in order, the share of the validation split that was right when it
            ended; None where it left no model.
        trainings: the fingerprint of each trial in order, where it is known.
    """

    trials: int
    done: int
    pruned: int
    failed: int
    best: float
    settings: dict[str, Any]
    training: str
    values: Sequence[float | None] = ()
    trainings: Sequence[str | None] = ()

    @property
    def scores(self) -> list[float]:
        """Of each trial in order; one that left no model got nothing right."""
        return [value or 0.0 for value in self.values]


def tuned(study: StudyData) -> dict[System, Tuned]:
    """Return each system of the study whose router's settings were found, in order."""
    asked: dict[str, dict[str, Any]] = study.record.request.get("tuned", {})
    return {s: Tuned(**asked[s.router]) for s in study.systems if s.router in asked}


def unequal(study: StudyData) -> str:
    """Warn that some routers had more trials than others; "" where all had as many."""
    by_system = tuned(study)
    systems: dict[int, list[str]] = defaultdict(list)
    for system in study.systems:
        systems[by_system[system].trials if system in by_system else 0].append(system.label)
    if not by_system or len(systems) < 2:
        return ""
    counts = "; ".join(f"{n} for {', '.join(systems[n])}" for n in sorted(systems, reverse=True))
    return f"Tuning was not equal: {counts} (trials). What had more has an advantage."


def sentence(study: StudyData) -> str:
    """Say with how many trials each router was tuned; "" where none was."""
    least = min((each.trials for each in tuned(study).values()), default=None)
    if least is None:
        return ""
    equal = f"Each router was tuned with {counted(least, 'trial')}, on the validation split."
    return unequal(study) or equal


def settings_label(settings: Mapping[str, Any]) -> str:
    """`router.affinity=cosine train.lr=0.00123`."""
    return " ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in sorted(settings.items())
    )


COLUMNS = (
    *text_columns("router"),
    Column("trials", "trials", digits=0),
    Column("pruned", "pruned", digits=0),
    Column("failed", "failed", digits=0),
    Column("best", "best validation top-1", "%", "higher", 100, 2),
    *text_columns(training="its trial", settings="its settings"),
)
CAPTION = (
    "The best settings of each router, by the accuracy on the validation split at the end of one "
    "training each; the test split was not read. The score is the best of all trials, so it is "
    "higher than what the settings are worth. Pruned: stopped early, since not promising; failed: "
    "left no model. Both count as trials."
)


@as_table("tuning", "Tuning")
def table(study: StudyData) -> Contents:
    """Make a row for each router whose settings were found."""
    by_system = tuned(study)
    if not by_system:
        raise Lacking(UNTUNED, fine=True)
    rows = []
    for system, each in by_system.items():
        trials = tuple(filter(None, each.trainings))
        cells = (
            words(system.label),
            *(number(float(n), trials=trials) for n in (each.trials, each.pruned, each.failed)),
            Cell(each.best, n=1, trials=(each.training,), values=(each.best,)),
            words(each.training[:10]),
            words(settings_label(each.settings)),
        )
        entry = next((e for e in study.entries if e.system == system), Entry(system))
        rows.append(Row(cells, None, entry))
    sweep = study.record.request["preset"].get("sweep", {})
    at = ", ".join(f"{path}={values[0]}" for path, values in sweep.items())
    where = f"Tuned at {at} alone, and used under every condition." if at else ""
    return " ".join(filter(None, (CAPTION, where, unequal(study)))), COLUMNS, rows


CURVE_CAPTION = (
    "Best top-1 accuracy on the validation split against the number of trials. Left: as they were "
    "drawn. Right: expected of as many trials, drawn without replacement from those that were made "
    "(as arXiv 1909.03004). A pruned trial counts with its accuracy when it was stopped, a failed "
    "one with none. A curve that still rises at its end says that more trials would find better "
    "settings."
)


@as_figure("tuning", "Tuning curve")
def draw(study: StudyData) -> Sketch:
    """Draw one figure of all routers."""
    by_system = tuned(study)
    if not by_system:
        raise Lacking(UNTUNED, fine=True)
    styles = {system: study.styles[system] for system in by_system}
    figure, (drawn, expected) = panels(2, 2, PAGE, 2.1 + 0.05 * len(by_system), sharey=True)
    for system, each in by_system.items():
        trials = np.arange(1, len(each.scores) + 1)
        line = styles[system].line | {"markersize": 3}
        best = 100 * np.maximum.accumulate(each.scores)
        drawn.plot(trials, best, **line, drawstyle="steps-post")
        expected.plot(trials, 100 * expected_best(each.scores), **line)
    for axes, heading in ((drawn, "as drawn"), (expected, "expected")):
        axes.set_title(heading)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    drawn.set_ylabel("best validation top-1 (%)")
    router_legend(figure, styles, 3)
    return CURVE_CAPTION, figure, [entry for entry in study.entries if entry.system in by_system]
