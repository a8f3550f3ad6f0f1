"""The figures of a report, in the order in which they are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

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
from report.topics import generic


class Figure(Protocol):
    """What draws one figure, or one for each condition."""

    @property
    def NAME(self) -> str: ...

    @property
    def TITLE(self) -> str: ...

    def draw(self, study: StudyData) -> Iterator[Drawing | Absent]: ...


FIGURES: tuple[Figure, ...] = (
    accuracy,
    training,
    budgets,
    critical_difference,
    tuning,
    overhead,
    scaling_experts,
    load,
    entropy,
    class_expert,
    class_change,
    expert_images,
    editing,
)


def draw_figures(study: StudyData) -> Iterator[Drawing | Absent]:
    """Every figure, or what it lacks: once, where no condition has it for the same reason.

    One warning names the characters that no installed font has.
    """
    lacking: set[str] = set()
    for figure in (*FIGURES, *generic.curves(study)):
        parts = list(figure.draw(study))
        absent = [part for part in parts if isinstance(part, Absent)]
        if len(absent) == len(parts) and len({(part.why, part.fine) for part in absent}) == 1:
            yield replace(absent[0], name=figure.NAME, title=figure.TITLE)
        else:
            lacking.update(*(part.lacking for part in parts if isinstance(part, Drawing)))
            yield from parts
    if lacking:
        warnings.warn(
            f"no installed font has {' '.join(sorted(lacking))}: the figures show numbers of "
            "classes, or codes of characters, instead; a Noto font of that script would help",
            stacklevel=2,
        )
