"""What turns a function of a study into a table, or into figures, of its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from report.conditions import ANY, Entry
from report.study import StudyData
from report.style import Drawing, style
from report.table import Absent, Column, Lacking, Row, Table, assemble, file_name, title
from results.conditions import Condition

Contents = tuple[str, Iterable[Column], Iterable[Row]]
"""The caption, the columns and the rows of a table."""
Sketch = tuple[str, Figure, Iterable[Entry]]
"""The caption of a figure, the figure, and the entries that it shows."""


@dataclass(frozen=True)
class TableMaker:
    """A table of a report: call it with a study.

    Attributes:
        suites: whose numbers it shows.
    """

    name: str
    title: str
    suites: tuple[str, ...]
    make: Callable[[StudyData], Contents]

    def __call__(self, study: StudyData) -> Table | Absent:
        """Make the table, or say what the study lacks for it."""
        try:
            return assemble(self.name, self.title, *self.make(study))
        except Lacking as lacking:
            return Absent(self.name, self.title, str(lacking), lacking.fine)


@dataclass(frozen=True)
class FigureMaker:
    """A figure of a report, or several under one name: call it with a study.

    Attributes:
        suites: whose numbers it shows.
    """

    name: str
    title: str
    suites: tuple[str, ...]
    draw: Callable[[StudyData], Iterator[Drawing | Absent]]

    def __call__(self, study: StudyData) -> Iterator[Drawing | Absent]:
        """Draw in the style of reports, or say what the study lacks."""
        try:
            with style():
                return iter(list(self.draw(study)))
        except Lacking as lacking:
            return iter([Absent(self.name, self.title, str(lacking), lacking.fine)])


def as_table(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Contents]], TableMaker]:
    """Make a table of a function that returns its contents, or raises `Lacking`."""
    return lambda make: TableMaker(name, title, suites, make)


def as_figure(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Sketch]], FigureMaker]:
    """Make one figure of a function of a study, which returns a sketch or raises `Lacking`."""

    def decorate(sketch: Callable[[StudyData], Sketch]) -> FigureMaker:
        def draw(study: StudyData) -> Iterator[Drawing | Absent]:
            caption, figure, entries = sketch(study)
            yield Drawing(name, title, caption, figure, tuple(entries))

        return FigureMaker(name, title, suites, draw)

    return decorate


def as_figures(
    name: str, heading: str, *suites: str
) -> Callable[[Callable[[StudyData, Condition], Sketch]], FigureMaker]:
    """Make a figure for each condition to show apart, of a function of a study and a condition."""

    def decorate(sketch: Callable[[StudyData, Condition], Sketch]) -> FigureMaker:
        def draw(study: StudyData) -> Iterator[Drawing | Absent]:
            for condition in study.conditions or [ANY]:
                named = file_name(name, condition), title(heading, condition)
                try:
                    caption, figure, entries = sketch(study, condition)
                    yield Drawing(*named, caption, figure, tuple(entries))
                except Lacking as lacking:
                    yield Absent(*named, str(lacking), lacking.fine)

        return FigureMaker(name, heading, suites, draw)

    return decorate


def as_figures_at(
    name: str, heading: str, *suites: str
) -> Callable[[Callable[[StudyData], Iterator[tuple[str, Sketch]]]], FigureMaker]:
    """Make a figure of each sketch that a function yields with its place, such as a machine."""

    def decorate(sketches: Callable[[StudyData], Iterator[tuple[str, Sketch]]]) -> FigureMaker:
        def draw(study: StudyData) -> Iterator[Drawing | Absent]:
            for place, (caption, figure, entries) in sketches(study):
                named = file_name(name, place), title(heading, place)
                yield Drawing(*named, caption, figure, tuple(entries))

        return FigureMaker(name, heading, suites, draw)

    return decorate
