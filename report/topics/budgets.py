"""What the same runs reached by other budgets than the one that they were given.

A curve of validation accuracy is cut where all runs have come: at the FLOPs, and at the seconds,
that the one which spent the least spent in all. No run can be cut to fewer parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from report.axes import far_nulls, name_far
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, PAGE, PAPER, Drawing, panels, router_legend, style
from report.table import Absent, number_of_runs
from results.conditions import Condition
from results.statistics.ranks import fronts

BUDGETS = ("FLOPs", "seconds", "parameters")
CURVE = "val_top1"


@dataclass(frozen=True)
class Standing:
    """The entries of one condition by one budget.

    Attributes:
        budget: one of `BUDGETS`.
        cut: where the curves are read, FLOPs or seconds; None for parameters, at the end.
        machine: whose seconds they are; None for other budgets.
        accuracy: validation accuracy of each entry, a share by seed; only of those that have one.
        ranks: of each of them, 1 the best; those alike share one.
    """

    budget: str
    cut: float | None
    machine: str | None
    accuracy: Mapping[Entry, pd.Series]
    ranks: Mapping[Entry, int]


def standings(study: StudyData, condition: Condition) -> list[Standing]:
    """Return the standing by each budget of all that were trained under a condition."""
    entries = study.under(condition)
    machine = _machine_of_most(study, entries)
    by_flops = _cut(study, entries, "flops")
    by_seconds = _cut(study, entries, "seconds", machine)
    last = {entry: _last(study, entry) for entry in entries}
    sizes = {entry: study.final("params_total", entry) for entry in entries}
    sized = {e: last[e] for e in entries if not last[e].empty and not sizes[e].empty}
    aims = {entry: (last[entry].mean(), sizes[entry].mean()) for entry in sized}
    return [
        Standing("FLOPs", by_flops[0], None, by_flops[1], _ranked(by_flops[1])),
        Standing("seconds", by_seconds[0], machine, by_seconds[1], _ranked(by_seconds[1])),
        Standing("parameters", None, None, sized, fronts(aims)),
    ]


def why_not(rankings: Sequence[Standing]) -> tuple[str, bool] | None:
    """Say why there is nothing to rank, and whether that is no lack; None where there is."""
    most = max((len(standing.ranks) for standing in rankings), default=0)
    if most > 1:
        return None
    if most == 1:
        return "one router has none to be ranked against", True
    return "no trial was evaluated along the way (suite accuracy)", False


def flips(rankings: Iterable[Standing]) -> list[str]:
    """Return each pair of entries whose order one budget turns round, in words."""
    by_budget = {standing.budget: standing.ranks for standing in rankings}
    sentences = []
    everyone = dict.fromkeys(entry for ranks in by_budget.values() for entry in ranks)
    for one, other in combinations(everyone, 2):
        ranked = {b: ranks for b, ranks in by_budget.items() if one in ranks and other in ranks}
        first = [b for b, ranks in ranked.items() if ranks[one] < ranks[other]]
        second = [b for b, ranks in ranked.items() if ranks[one] > ranks[other]]
        if first and second:
            sentences.append(
                f"{one.router} before {other.router} by {' and '.join(first)}, after it by "
                f"{' and '.join(second)}"
            )
    return sentences


def curves(
    study: StudyData, entry: Entry, spent: str, machine: str | None = None
) -> dict[int, pd.Series]:
    """Validation accuracy by what was spent until then, of each seed.

    Args:
        spent: "flops" or "seconds".
        machine: whose runs alone are looked at; None for all.
    """
    rows = study.rows(CURVE, entry)
    rows = rows[rows["step"].notna()].dropna(subset="value").sort_values("step")
    if machine is not None:
        trials = study.trials_of(entry)
        rows = rows[rows["trial"].isin(trials[trials["machine"] == machine]["trial"])]
    return {
        int(seed): pd.Series(list(own["value"]), [where[spent] for where in own["where"]])
        for seed, own in rows.groupby("seed")
    }


def _cut(
    study: StudyData, entries: list[Entry], spent: str, machine: str | None = None
) -> tuple[float | None, dict[Entry, pd.Series]]:
    """Return the most that all runs have spent, and each entry's accuracies there by seed."""
    courses = {entry: curves(study, entry, spent, machine) for entry in entries}
    ends = [curve.index[-1] for of_seed in courses.values() for curve in of_seed.values()]
    if not ends:
        return None, {}
    cut = float(min(ends))
    read = {
        entry: pd.Series({seed: _at(curve, cut) for seed, curve in of_seed.items()}, dtype=float)
        for entry, of_seed in courses.items()
    }
    # A run that had spent more before it was first evaluated has no accuracy there.
    return cut, {entry: values for entry, values in read.items() if values.notna().any()}


def _at(curve: pd.Series, spent: float) -> float:
    """Linear between two evaluations; NaN before the first."""
    return float(np.interp(spent, curve.index, curve.to_numpy(), left=np.nan))


def _last(study: StudyData, entry: Entry) -> pd.Series:
    """Accuracy at the last evaluation, by seed."""
    courses = curves(study, entry, "flops")
    return pd.Series({seed: curve.iloc[-1] for seed, curve in courses.items()}, dtype=float)


def _ranked(accuracy: Mapping[Entry, pd.Series]) -> dict[Entry, int]:
    means = pd.Series({entry: values.mean() for entry, values in accuracy.items()}, dtype=float)
    return {entry: int(rank) for entry, rank in means.rank(ascending=False, method="min").items()}


def _machine_of_most(study: StudyData, entries: list[Entry]) -> str | None:
    """Return the machine that trained the most of these entries' runs; None where none is done."""
    runs = pd.concat([study.trials_of(entry) for entry in entries]) if entries else study.trials
    machines = runs[runs["status"] == "done"]["machine"].value_counts()
    return None if machines.empty else str(machines.index[0])


FIGURE, FIGURE_TITLE = "budgets", "Accuracy by seconds and by parameters"
FIGURE_CAPTION = (
    "Left: top-1 accuracy on the validation split against seconds of training until then, mean "
    "over the seeds ({counts}) where all have come, on one machine; dotted: where every run has "
    "come, and the ranking by seconds is read. Right: that at the end of training against "
    "parameters, mean over the seeds; dashed: the first front, of those that none surpasses with "
    "no more parameters."
)
POINTS = 100
"""Of a mean curve."""


def draw(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw one figure for each condition."""
    for name, heading, condition in study.by_condition(FIGURE, FIGURE_TITLE):
        _, by_seconds, by_parameters = standings(study, condition)
        if why := why_not([by_seconds, by_parameters]):
            yield Absent(name, heading, *why)
            continue
        entries = tuple(by_parameters.ranks)
        ends = {entry: 100 * values.mean() for entry, values in by_parameters.accuracy.items()}
        lines = {entry: mean_curve(study, entry, by_seconds.machine) for entry in entries}
        heights = {e: [end, *lines[e]] for e, end in ends.items()}
        far = far_nulls(study, heights)
        near = [entry for entry in entries if entry not in far]
        with style():
            figure, (left, right) = panels(2, 2, PAGE, 2.1 + 0.05 * len(entries), sharey=True)
            _draw_seconds(left, study, by_seconds.cut, {entry: lines[entry] for entry in near})
            _draw_parameters(right, study, by_parameters, near)
            name_far(left, far, ends)
            left.set_ylabel("validation top-1 (%)")
            router_legend(figure, {e.router: study.styles[e.router] for e in near}, 3)
        counts = number_of_runs({e.router: len(v) for e, v in by_seconds.accuracy.items()})
        yield Drawing(name, heading, FIGURE_CAPTION.format(counts=counts), figure, entries)


def mean_curve(study: StudyData, entry: Entry, machine: str | None) -> pd.Series:
    """Mean accuracy over the seeds, in %, by seconds; from where all were evaluated to their end.

    Empty where there is none, or one ended before another was evaluated.
    """
    by_run = list(curves(study, entry, "seconds", machine).values())
    if not by_run:
        return pd.Series(dtype=float)
    begin = max(curve.index[0] for curve in by_run)
    end = min(curve.index[-1] for curve in by_run)
    if begin > end:
        return pd.Series(dtype=float)
    seconds = np.linspace(begin, end, POINTS)
    each = [np.interp(seconds, curve.index, curve.to_numpy()) for curve in by_run]
    return pd.Series(100 * np.mean(each, axis=0), seconds)


def _draw_seconds(
    axes: Axes, study: StudyData, cut: float | None, lines: Mapping[Entry, pd.Series]
) -> None:
    for entry, curve in lines.items():
        style = study.styles[entry.router]
        axes.plot(
            curve.index,
            curve.to_numpy(),
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=3,
            markevery=POINTS // 6,
        )
    if cut is not None:
        axes.axvline(cut, color=FAINT, lw=0.8, ls=":", zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of training")
    axes.grid()


def _draw_parameters(
    axes: Axes, study: StudyData, standing: Standing, near: Sequence[Entry]
) -> None:
    places = {
        entry: (study.final("params_total", entry).mean(), 100 * standing.accuracy[entry].mean())
        for entry in near
    }
    front = sorted(place for entry, place in places.items() if standing.ranks[entry] == 1)
    axes.plot(*zip(*front, strict=True), color=FAINT, lw=0.8, ls=(0, (4, 2)), zorder=0)
    for entry, place in places.items():
        style = study.styles[entry.router]
        axes.plot(*place, color=style.colour, marker=style.marker, ls="", mec=PAPER, mew=0.5)
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid()
