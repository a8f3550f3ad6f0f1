"""How the settings of each router were found, as the study's request says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.conditions import router_of
from report.study import StudyData
from report.style import PAGE, Drawing, RouterStyle, panels, router_legend, style
from report.table import Absent, Cell, Column, Row, Table, assemble, words
from results.statistics.ranks import expected_best
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
    """Return each system of the study whose router's settings were found, in order."""
    asked: dict[str, dict[str, Any]] = study.record.request.get("tuned", {})
    by_router = {name: Tuned(**(fields | _tuples(fields))) for name, fields in asked.items()}
    return {s: by_router[router_of(s)] for s in study.routers if router_of(s) in by_router}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return as tuples what a request keeps as lists."""
    return {name: tuple(fields.get(name, ())) for name in ("values", "trainings")}


def unequal(study: StudyData) -> str:
    """Warn that some routers had more trials than others; "" where all had as many."""
    by_router = tuned(study)
    if not by_router:
        return ""
    routers: dict[int, list[str]] = defaultdict(list)
    for name in study.routers:
        routers[by_router[name].trials if name in by_router else 0].append(name)
    if len(routers) < 2:
        return ""
    counts = "; ".join(f"{n} for {', '.join(routers[n])}" for n in sorted(routers, reverse=True))
    return f"Tuning was not equal: {counts} (trials). What had more has an advantage."


def sentence(study: StudyData) -> str:
    """Say with how many trials each router was tuned; "" where none was."""
    by_router = tuned(study)
    counts = {each.trials for each in by_router.values()}
    if not by_router:
        return ""
    equal = f"Each router was tuned with {counted(min(counts), 'trial')}, on the validation split."
    return unequal(study) or equal


def settings_label(settings: Mapping[str, Any]) -> str:
    """`router.affinity=cosine train.lr=0.00123`."""
    return " ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in sorted(settings.items())
    )


NAME, TITLE = "tuning", "Tuning"
COLUMNS = (
    Column("router", "router", words=True),
    Column("trials", "trials", digits=0),
    Column("pruned", "pruned", digits=0),
    Column("failed", "failed", digits=0),
    Column("best", "best validation top-1", "%", "higher", 100, 2),
    Column("training", "its trial", words=True),
    Column("settings", "its settings", words=True),
)
CAPTION = (
    "The best settings of each router, by the accuracy on the validation split at the end of one "
    "training each; the test split was not read. The score is the best of all trials, so it is "
    "higher than what the settings are worth. Pruned: stopped early, since not promising; failed: "
    "left no model. Both count as trials."
)


def table(study: StudyData) -> Table | Absent:
    """Make a row for each router whose settings were found."""
    by_router = tuned(study)
    if not by_router:
        return Absent(NAME, TITLE, "no settings were tuned (tune, then run --tuned)", fine=True)
    rows = [_row(study, router, each) for router, each in by_router.items()]
    caption = " ".join(filter(None, (CAPTION, _where(study), unequal(study))))
    return assemble(NAME, TITLE, caption, COLUMNS, rows)


def _row(study: StudyData, router: str, each: Tuned) -> Row:
    counts = (each.trials, each.pruned, each.failed)
    trials = tuple(filter(None, each.trainings))
    cells = (
        words(router),
        *(Cell(float(count), trials=trials) for count in counts),
        Cell(each.best, n=1, trials=(each.training,), values=(each.best,)),
        words(each.training[:10]),
        words(settings_label(each.settings)),
    )
    return Row(cells, None, next((e for e in study.entries if e.router == router), None))


def _where(study: StudyData) -> str:
    """Return the condition of the tuning, where the study has several."""
    sweep = study.record.request["preset"].get("sweep", {})
    at = ", ".join(f"{path}={values[0]}" for path, values in sweep.items())
    return f"Tuned at {at} alone, and used under every condition." if at else ""


FIGURE, FIGURE_TITLE = "tuning", "Tuning curve"
FIGURE_CAPTION = (
    "Best top-1 accuracy on the validation split against the number of trials. Left: as they were "
    "drawn. Right: expected of as many trials, drawn without replacement from those that were made "
    "(as arXiv 1909.03004). A pruned trial counts with its accuracy when it was stopped, a failed "
    "one with none. A curve that still rises at its end says that more trials would find better "
    "settings."
)


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure of all routers."""
    by_router = tuned(study)
    if not by_router:
        yield Absent(
            FIGURE, FIGURE_TITLE, "no settings were tuned (tune, then run --tuned)", fine=True
        )
        return
    entries = tuple(entry for entry in study.entries if entry.router in by_router)
    yield Drawing(FIGURE, FIGURE_TITLE, FIGURE_CAPTION, _figure(study, by_router), entries)


def _figure(study: StudyData, by_router: dict[str, Tuned]) -> Figure:
    styles = {name: study.styles[name] for name in by_router}
    with style():
        figure, (drawn, expected) = panels(2, 2, PAGE, 2.1 + 0.05 * len(by_router), sharey=True)
        for name, each in by_router.items():
            _line(drawn, np.maximum.accumulate(each.scores), styles[name], drawstyle="steps-post")
            _line(expected, expected_best(each.scores), styles[name])
        for axes, heading in ((drawn, "as drawn"), (expected, "expected")):
            axes.set_title(heading)
            axes.set_xlabel("trials")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid()
        drawn.set_ylabel("best validation top-1 (%)")
        router_legend(figure, styles, 3)
    return figure


def _line(axes: Axes, best: np.ndarray, style: RouterStyle, drawstyle: str = "default") -> None:
    axes.plot(
        np.arange(1, len(best) + 1),
        100 * best,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=3,
        drawstyle=drawstyle,
    )
