"""The figures of a report, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from report.figures import (
    accuracy,
    budgets,
    class_change,
    class_expert,
    critical_difference,
    editing,
    entropy,
    expert_images,
    load,
    overhead,
    scaling_experts,
    training,
    tuning,
)
from report.figures.canvas import Drawing
from report.parts import Absent
from report.study import StudyData

FIGURES: tuple[Callable[[StudyData], Iterator[Drawing | Absent]], ...] = (
    accuracy.draw,
    training.draw,
    budgets.draw,
    critical_difference.draw,
    tuning.draw,
    overhead.draw,
    scaling_experts.draw,
    load.draw,
    entropy.draw,
    class_expert.draw,
    class_change.draw,
    expert_images.draw,
    editing.draw,
)


def draw_figures(study: StudyData) -> Iterator[Drawing | Absent]:
    """Every figure, or what it lacks."""
    for draw in FIGURES:
        yield from draw(study)
