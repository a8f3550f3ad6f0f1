"""The tables and figures of a report, in the order in which they are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from report import cells
from report.study import StudyData
from report.style import Drawing
from report.table import Absent, Table
from report.topics import (
    accuracy,
    balance,
    budgets,
    claims,
    compute,
    control,
    cost,
    differences,
    editing,
    entropy,
    expert_images,
    generic,
    ranks,
    scaling_experts,
    specialization,
    training,
    trials,
    tuning,
)

TABLES: tuple[Callable[[StudyData], Table | Absent], ...] = (
    accuracy.table,
    compute.table,
    compute.rankings_table,
    differences.to_nulls,
    differences.to_best,
    differences.seeds_table,
    ranks.table,
    control.table,
    tuning.table,
    cost.table,
    balance.balance,
    balance.balance_by_layer,
    balance.entropy,
    cells.table,
    specialization.table,
    editing.table,
    claims.table,
    claims.tests,
)
RUNS: tuple[Callable[[StudyData], Table | Absent], ...] = (
    trials.failures,
    trials.trials,
    trials.layers,
)


@dataclass(frozen=True)
class Figure:
    """A figure of a report: `draw` yields it, or one for each condition."""

    name: str
    title: str
    draw: Callable[[StudyData], Iterator[Drawing | Absent]]


FIGURES = (
    Figure(accuracy.FIGURE, accuracy.FIGURE_TITLE, accuracy.draw),
    Figure(training.FIGURE, training.FIGURE_TITLE, training.draw),
    Figure(budgets.FIGURE, budgets.FIGURE_TITLE, budgets.draw),
    Figure(ranks.FIGURE, ranks.FIGURE_TITLE, ranks.draw),
    Figure(tuning.FIGURE, tuning.FIGURE_TITLE, tuning.draw),
    Figure(cost.FIGURE, cost.FIGURE_TITLE, cost.draw),
    Figure(scaling_experts.FIGURE, scaling_experts.FIGURE_TITLE, scaling_experts.draw),
    Figure(balance.FIGURE, balance.FIGURE_TITLE, balance.draw),
    Figure(entropy.FIGURE, entropy.FIGURE_TITLE, entropy.draw),
    Figure(specialization.SERVED, specialization.SERVED_TITLE, specialization.draw_served),
    Figure(specialization.CHANGE, specialization.CHANGE_TITLE, specialization.draw_change),
    Figure(expert_images.FIGURE, expert_images.FIGURE_TITLE, expert_images.draw),
    Figure(editing.FIGURE, editing.FIGURE_TITLE, editing.draw),
)


def make_tables(study: StudyData) -> list[Table | Absent]:
    """Make every table, or say what it lacks."""
    made, runs = ([make(study) for make in each] for each in (TABLES, RUNS))
    return [*made, *generic.tables(study), *runs]


def draw_figures(study: StudyData) -> Iterator[Drawing | Absent]:
    """Draw every figure, or say what it lacks: once, where every condition lacks it alike.

    One warning names the characters that no installed font has.
    """
    lacking: set[str] = set()
    figures: list[Figure | generic.Curves] = [*FIGURES, *generic.curves(study)]
    for figure in figures:
        parts = list(figure.draw(study))
        absent = [part for part in parts if isinstance(part, Absent)]
        if len(absent) == len(parts) and len({(part.why, part.fine) for part in absent}) == 1:
            yield replace(absent[0], name=figure.name, title=figure.title)
        else:
            lacking.update(*(part.lacking for part in parts if isinstance(part, Drawing)))
            yield from parts
    if lacking:
        warnings.warn(
            f"no installed font has {' '.join(sorted(lacking))}: the figures show numbers of "
            "classes, or codes of characters, instead; a Noto font of that script would help",
            stacklevel=2,
        )
