"""The tuning of each router's settings, as recorded in the study's request."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from report.cells import listed
from report.conditions import Entry, System
from report.study import StudyData
from report.style import PAGE, panels, router_legend
from report.table import Cell, Column, Lacking, Row, captioned, number, summary, text_columns, words
from report.topics.make import Contents, Sketch, as_figure, as_table
from results.statistics.ranks import expected_best
from results.text import counted
from results.tuned import SearchResult

UNTUNED = "no settings were tuned (tune, then run --tuned)"


def tuned(study: StudyData) -> dict[System, SearchResult]:
    """Return the search result of each system whose router was tuned, in the study's order."""
    asked: dict[str, dict[str, Any]] = study.record.request.get("tuned", {})
    return {s: SearchResult.of(asked[s.router]) for s in study.systems if s.router in asked}


def _best_cell(router: SearchResult) -> Cell:
    """Show the mean accuracy of the best setting over its seeds."""
    chosen = next((each for each in router.tried if each.trainings[0] == router.training), None)
    if chosen is None:
        best = router.best or 0.0
        return Cell(best, n=1, trials=(str(router.training),), values=(best,))
    return summary(chosen.scores, trials=[each or "" for each in chosen.trainings])


def unequal(study: StudyData) -> str:
    """Return a warning if some routers had more trainings than others, else ""."""
    by_system = tuned(study)
    systems: dict[int, list[str]] = defaultdict(list)
    for system in study.systems:
        count = by_system[system].count_trainings if system in by_system else 0
        systems[count].append(system.label)
    if not by_system or len(systems) < 2:
        return ""
    counts = "; ".join(
        f"{n} for {listed(own, table.name) if n else ', '.join(own)}"
        for n, own in sorted(systems.items(), reverse=True)
    )
    return f"Tuning was not equal: {counts} (trainings). Routers with more have an advantage."


def sentence(study: StudyData) -> str:
    """Return with how many trainings each router was tuned, or "" if none was."""
    first = next(iter(tuned(study).values()), None)
    if first is None:
        return ""
    trainings = counted(first.count_trainings, "training")
    equal = f"{trainings} of {counted(first.trials, 'setting')}, on the validation split"
    return unequal(study) or f"Each router was tuned with {equal}."


def settings_label(settings: Mapping[str, Any]) -> str:
    """Return settings in one line: `router.affinity=cosine train.lr=0.00123`."""
    return " ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in sorted(settings.items())
    )


COST = (Column("flops", "cost", "FLOP", si=True), Column("minutes", "time", "min", digits=1))
COLUMNS = (
    *text_columns("router"),
    Column("trials", "settings", digits=0),
    Column("trainings", "trainings", digits=0),
    Column("pruned", "pruned", digits=0),
    Column("failed", "failed", digits=0),
    Column("best", "best mean validation top-1", "%", "higher", 100, 2),
    Column("seeds", "of seeds", digits=0),
    *text_columns(training="its first trial"),
    *COST,
    *text_columns(settings="its settings"),
)
CAPTION = (
    "The best settings of each router, by the accuracy on the validation split at the end of "
    "training; the test split was not read. Mean over the seeds of a setting ± half of its 95 % "
    "Student t interval; being the best of many, it overestimates the settings."
)
RULES = (
    "Every setting was trained on one seed, the best of them on more; among those on the most "
    "seeds the best mean won. Pruned: stopped early as unpromising; failed: left no model; both "
    "on the first seed. Cost: FLOPs of the trainings that finished; time: of all trainings, "
    "summed."
)


@as_table("tuning", "Tuning")
def table(study: StudyData) -> Contents:
    """Make a row for each tuned router."""
    by_system = tuned(study)
    if not by_system:
        raise Lacking(UNTUNED, fine=True)
    rows = []
    for system, each in by_system.items():
        trials = tuple(filter(None, each.trainings))
        counts = (each.trials, each.count_trainings, each.pruned, each.failed)
        cells = (
            words(system.label),
            *(number(float(count), trials=trials) for count in counts),
            _best_cell(each),
            number(float(each.seeds)),
            words(str(each.training)[:10]),
            *_cost(each.flops, each.seconds, trials),
            words(settings_label(each.settings)),
        )
        rows.append(Row(cells, None, _entry_of(study, system)))
    sweep = study.record.request["preset"].get("sweep", {})
    at = ", ".join(f"{path}={values[0]}" for path, values in sweep.items())
    where = f"Tuned only at {at}, and used under every condition." if at else ""
    summary = " ".join(filter(None, (CAPTION, unequal(study))))
    return captioned(summary, RULES, _whole_cost(by_system), where), COLUMNS, rows


TRIED = (
    *text_columns("router", number="setting"),
    Column("first", "validation top-1 on the first seed", "%", "higher", 100, 2),
    Column("mean", "mean over its seeds", "%", "higher", 100, 2),
    Column("seeds", "seeds", digits=0),
    *text_columns(status="outcome on it", chosen="chosen"),
    *COST,
    *text_columns(settings="settings"),
)


@as_table("tuning_trials", "Settings that were tried")
def tried_table(study: StudyData) -> Contents:
    """Make a row for each setting tried, with all its trainings."""
    by_system = tuned(study)
    if not any(each.tried for each in by_system.values()):
        raise Lacking(UNTUNED, fine=True)
    rows = []
    for system, router in by_system.items():
        for place, each in enumerate(router.tried, 1):
            trials = tuple(filter(None, each.trainings))
            chosen = each.trainings[0] is not None and each.trainings[0] == router.training
            cells = (
                words(system.label),
                words(str(place)),
                number(each.values[0], 1, trials[:1]),
                summary(each.scores, trials=trials),
                number(float(len(each.values)), trials=trials),
                words(each.status),
                words("best" if chosen else ""),
                *_cost(each.flops, each.seconds, trials),
                words(settings_label(each.settings)),
            )
            rows.append(Row(cells, None, _entry_of(study, system)))
    caption = (
        "Each setting in the order in which it was drawn. Mean: over all of its seeds ± half of "
        "its 95 % Student t interval; a training that left no model counts as 0. Best: the highest "
        "mean among the settings on the most seeds."
    )
    return caption, TRIED, rows


def _entry_of(study: StudyData, system: System) -> Entry:
    return next((each for each in study.entries if each.system == system), Entry(system))


def _cost(flops: float | None, seconds: float | None, trials: Sequence[str]) -> tuple[Cell, Cell]:
    minutes = None if seconds is None else seconds / 60
    return number(flops, trials=trials), number(minutes, trials=trials)


def _whole_cost(by_system: Mapping[System, SearchResult]) -> str:
    """Return the total cost of tuning all routers, or "" if it is not known."""
    every = by_system.values()
    seconds = [each.seconds for each in every if each.seconds is not None]
    if len(seconds) < len(every):
        return ""
    count = counted(sum(each.count_trainings for each in every), "training")
    spent = f"{sum(each.flops or 0.0 for each in every):.1e}".replace("e+", "e")
    return f"All together: {count}, {spent} FLOPs, {sum(seconds) / 60:.1f} min."


CURVE_CAPTION = captioned(
    "Best top-1 accuracy on the validation split, on the first seed, against the number of "
    "settings. Left: as they were drawn; right: expected for as many settings, drawn without "
    "replacement from those tried (as in arXiv 1909.03004). A curve that still rises at its end "
    "says that more settings would find better ones, or luckier ones: one seed decides here.",
    "A pruned setting counts with its accuracy when it was stopped, a failed one with none.",
)


@as_figure("tuning", "Tuning curve")
def draw(study: StudyData) -> Sketch:
    """Draw one figure with all tuned routers."""
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
        axes.set_xlabel("settings")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    drawn.set_ylabel("best validation top-1 (%)")
    router_legend(figure, styles, 3)
    return CURVE_CAPTION, figure, [entry for entry in study.entries if entry.system in by_system]
