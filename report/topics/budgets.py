"""Accuracy of the same runs under other budgets than the one they were given.

Curves of validation accuracy are cut where the cheapest run ended: at its total FLOPs, and at the
total seconds of the run that took the fewest. No run can be cut to fewer parameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from report.axes import far_nulls, name_far
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, PAGE, panels, router_legend
from report.table import Lacking, number_of_runs
from report.topics.make import Sketch, as_figures
from results.conditions import Condition
from results.statistics.ranks import fronts


@dataclass(frozen=True)
class Standing:
    """The ranking of one condition's entries under one budget.

    Attributes:
        budget: FLOPs, seconds or parameters.
        cut: the FLOPs or seconds at which curves are read; None for parameters (at the end).
        machine: the machine that the seconds are from; None for other budgets.
        accuracy: validation accuracy by seed, as a share, of each entry that has one.
        ranks: the rank of each of these entries, 1 for the best; equal ones share a rank.
    """

    budget: str
    cut: float | None
    machine: str | None
    accuracy: Mapping[Entry, pd.Series]
    ranks: Mapping[Entry, int]


def standings(study: StudyData, condition: Condition) -> list[Standing]:
    """Return the ranking of all entries of a condition under each budget."""
    entries = study.under(condition)
    last = {entry: _last(study, entry) for entry in entries}
    sizes = {entry: study.final("params_total", entry) for entry in entries}
    sized = {e: last[e] for e in entries if not last[e].empty and not sizes[e].empty}
    fronts_of = fronts({entry: (last[entry].mean(), sizes[entry].mean()) for entry in sized})
    return [
        _cut(study, entries, "flops", "FLOPs"),
        _cut(study, entries, "seconds", "seconds", _machine_of_most(study, entries)),
        Standing("parameters", None, None, sized, fronts_of),
    ]


def require_rivals(rankings: Iterable[Standing]) -> None:
    """Check that there are at least two entries to rank.

    Raises:
        Lacking: there are fewer.
    """
    most = max((len(standing.ranks) for standing in rankings), default=0)
    if most == 1:
        raise Lacking("a single router has nothing to be ranked against", fine=True)
    if not most:
        raise Lacking("no trial was evaluated along the way (suite accuracy)")


@dataclass(frozen=True)
class OrderChange:
    """Two entries, with the budgets that rank the first before the other and those after it."""

    entry: Entry
    other: Entry
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        before, after = (" and ".join(budgets) for budgets in (self.before, self.after))
        return f"{self.entry.system} before {self.other.system} by {before}, after it by {after}"


def order_changes(rankings: Iterable[Standing]) -> list[OrderChange]:
    """Return each pair of entries that two budgets rank in opposite order."""
    by_budget = {standing.budget: standing.ranks for standing in rankings}
    changes = []
    everyone = dict.fromkeys(entry for ranks in by_budget.values() for entry in ranks)
    for one, other in combinations(everyone, 2):
        ranked = {b: ranks for b, ranks in by_budget.items() if one in ranks and other in ranks}
        before = tuple(b for b, ranks in ranked.items() if ranks[one] < ranks[other])
        after = tuple(b for b, ranks in ranked.items() if ranks[one] > ranks[other])
        if before and after:
            changes.append(OrderChange(one, other, before, after))
    return changes


def curves(
    study: StudyData, entry: Entry, along: str, machine: str | None = None
) -> dict[int, pd.Series]:
    """Return each seed's validation accuracy, indexed by the compute used so far.

    Args:
        along: "flops" or "seconds".
        machine: the only machine whose runs count; None for all.
    """
    rows = study.rows("val_top1", entry).dropna(subset=["step", "value"]).sort_values("step")
    if machine is not None:
        trials = study.trials_of(entry)
        rows = rows[rows["trial"].isin(trials[trials["machine"] == machine]["trial"])]
    return {
        int(seed): pd.Series(list(own["value"]), [where[along] for where in own["where"]])
        for seed, own in rows.groupby("seed")
    }


def _cut(
    study: StudyData, entries: list[Entry], along: str, budget: str, machine: str | None = None
) -> Standing:
    """Rank the entries by their accuracies where the first run ended."""
    by_entry = {entry: curves(study, entry, along, machine) for entry in entries}
    ends = [curve.index[-1] for of_seed in by_entry.values() for curve in of_seed.values()]
    if not ends:
        return Standing(budget, None, machine, {}, {})
    cut = float(min(ends))
    # Interpolated linearly between evaluations. A run that had spent more before its first
    # evaluation has no accuracy there.
    read = {
        entry: pd.Series(
            {s: np.interp(cut, c.index, c.to_numpy(), left=np.nan) for s, c in of_seed.items()},
            dtype=float,
        )
        for entry, of_seed in by_entry.items()
    }
    accuracy = {entry: values for entry, values in read.items() if values.notna().any()}
    means = pd.Series({entry: values.mean() for entry, values in accuracy.items()}, dtype=float)
    ranks = {e: int(rank) for e, rank in means.rank(ascending=False, method="min").items()}
    return Standing(budget, cut, machine, accuracy, ranks)


def _last(study: StudyData, entry: Entry) -> pd.Series:
    """Return the accuracy at the last evaluation, by seed."""
    by_seed = curves(study, entry, "flops")
    return pd.Series({seed: curve.iloc[-1] for seed, curve in by_seed.items()}, dtype=float)


def _machine_of_most(study: StudyData, entries: list[Entry]) -> str | None:
    """Return the machine of the most runs of these entries that have a curve, or None."""
    runs = pd.concat([study.trials_of(entry) for entry in entries]) if entries else study.trials
    known = study.metrics.loc[study.metrics["metric"] == "val_top1", "trial"]
    done = (runs["status"] == "done") & runs["trial"].isin(known)
    machines = runs[done]["machine"].value_counts()
    return None if machines.empty else str(machines.index[0])


CAPTION = (
    "Left: top-1 accuracy on the validation split against seconds of training so far on one "
    "machine, mean over the seeds ({counts}) as far as all of them go; dotted: the end of the "
    "shortest run, where the ranking by seconds is read. Right: accuracy at the end of training "
    "against parameters, mean over the seeds; dashed: the first front, of the systems that no "
    "other surpasses with as few parameters."
)
POINTS = 100
"""The number of points of a mean curve."""


@as_figures("budgets", "Accuracy by seconds and by parameters", "accuracy")
def draw(study: StudyData, condition: Condition) -> Sketch:
    """Draw accuracy against seconds and against parameters."""
    _, by_seconds, by_parameters = standings(study, condition)
    require_rivals([by_seconds, by_parameters])
    entries = list(by_parameters.ranks)
    ends = {entry: 100 * values.mean() for entry, values in by_parameters.accuracy.items()}
    lines = {entry: mean_curve(study, entry, by_seconds.machine) for entry in entries}
    far = far_nulls(study, {e: [end, *lines[e]] for e, end in ends.items()})
    near = [entry for entry in entries if entry not in far]
    figure, (left, right) = panels(2, 2, PAGE, 2.1 + 0.05 * len(entries), sharey=True)
    for entry in near:
        drawn = study.styles[entry.system].line | {"markersize": 3, "markevery": POINTS // 6}
        left.plot(lines[entry].index, lines[entry].to_numpy(), **drawn)
    if by_seconds.cut is not None:
        left.axvline(by_seconds.cut, color=FAINT, lw=0.8, ls=":", zorder=0)
    left.set_xlim(left=0)
    left.set_xlabel("seconds of training")
    left.grid()
    _draw_parameters(right, study, by_parameters, near)
    name_far(left, far, ends)
    left.set_ylabel("validation top-1 (%)")
    router_legend(figure, {e.system: study.styles[e.system] for e in near}, 3)
    counts = number_of_runs({e.system: len(v) for e, v in by_seconds.accuracy.items()})
    return CAPTION.format(counts=counts), figure, entries


def mean_curve(study: StudyData, entry: Entry, machine: str | None) -> pd.Series:
    """Return the mean accuracy over the seeds, in %, by seconds.

    It begins where all seeds have been evaluated, and is empty if there is no seed or if one
    ended before another was first evaluated.
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
        axes.plot(*place, **study.styles[entry.system].point, ls="")
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid()
