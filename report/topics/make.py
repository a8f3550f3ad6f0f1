"""Makers of tables and figures: a function of a study, with its name, title and suites."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.figure import Figure

from report.conditions import ANY, Entry
from report.marks import aged_table, older_sentence, with_best
from report.study import StudyData
from report.style import Drawing, style
from report.table import (
    Absent,
    Column,
    Lacking,
    Row,
    Table,
    assemble,
    file_name,
    title,
    with_warning,
)
from results.conditions import Condition

Contents = tuple[str, Iterable[Column], Iterable[Row]]
"""The caption, the columns and the rows of a table."""
Sketch = tuple[str, Figure, Iterable[Entry]]
"""The caption of a figure, the figure, and the entries that it shows."""
Named = tuple[str, str, Callable[[], Sketch]]
"""The name and the title of a figure, and what draws it, or raises `Lacking`."""


@dataclass(frozen=True)
class TableMaker:
    """A table of a report: call it with a study. `suites`: whose numbers it shows."""

    name: str
    title: str
    suites: tuple[str, ...]
    contents: Callable[[StudyData], Contents]

    def __call__(self, study: StudyData) -> Table | Absent:
        """Make the table, or say what the study lacks for it."""
        try:
            made = with_best(study, assemble(self.name, self.title, *self.contents(study)))
        except Lacking as lacking:
            return Absent(self.name, self.title, str(lacking), lacking.fine)
        return aged_table(made, study, self.suites)


@dataclass(frozen=True)
class FigureMaker:
    """A figure of a report, or several: call it with a study. `suites`: whose numbers it shows."""

    name: str
    title: str
    suites: tuple[str, ...]
    sketches: Callable[[StudyData], Iterable[Named]]

    def __call__(self, study: StudyData) -> Iterator[Drawing | Absent]:
        """Draw in the style of reports, or say what is lacking: once, where all lack it alike."""
        parts = list(self._parts(study))
        absent = [part for part in parts if isinstance(part, Absent)]
        if len(absent) == len(parts) and len({(part.why, part.fine) for part in absent}) == 1:
            parts = [replace(absent[0], name=self.name, title=self.title)]
        yield from parts

    def _parts(self, study: StudyData) -> Iterator[Drawing | Absent]:
        try:
            for name, heading, sketch in self.sketches(study):
                yield self._drawn(study, name, heading, sketch)
        except Lacking as lacking:
            yield Absent(self.name, self.title, str(lacking), lacking.fine)

    def _drawn(
        self, study: StudyData, name: str, heading: str, sketch: Callable[[], Sketch]
    ) -> Drawing | Absent:
        try:
            with style():
                caption, figure, entries = sketch()
        except Lacking as lacking:
            return Absent(name, heading, str(lacking), lacking.fine)
        shown = tuple(entries)
        older = older_sentence(study, shown, self.suites)
        caption = with_warning(caption, older) if older else caption
        return Drawing(name, heading, caption, figure, shown)


@dataclass(frozen=True)
class Section:
    """A part of the page: its tables and figures, in order, and those folded away."""

    anchor: str
    title: str
    shown: tuple[TableMaker | FigureMaker, ...]
    folded: tuple[TableMaker | FigureMaker, ...] = ()


def as_table(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Contents]], TableMaker]:
    """Make a table of a function that returns its contents, or raises `Lacking`."""
    return partial(TableMaker, name, title, suites)


def as_figure(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Sketch]], FigureMaker]:
    """Make one figure of a function of a study, which returns a sketch or raises `Lacking`."""
    return lambda sketch: FigureMaker(
        name, title, suites, lambda study: [(name, title, partial(sketch, study))]
    )


def as_figures(
    name: str, heading: str, *suites: str
) -> Callable[[Callable[[StudyData, Condition], Sketch]], FigureMaker]:
    """Make a figure for each condition to show apart, of a function of a study and a condition."""
    return lambda sketch: FigureMaker(
        name,
        heading,
        suites,
        lambda study: (
            (file_name(name, each), title(heading, each), partial(sketch, study, each))
            for each in study.conditions or [ANY]
        ),
    )


def as_named_figures(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Iterable[Named]]], FigureMaker]:
    """Make figures of a function that names each of them itself."""
    return partial(FigureMaker, name, title, suites)
