"""Makers of tables and figures: functions of a study, with a name, a title and suites."""

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
"""The name and the title of a figure, and a function that draws it or raises `Lacking`."""


@dataclass(frozen=True)
class TableMaker:
    """A table of a report, made by calling it with a study. It shows numbers of `suites`."""

    name: str
    title: str
    suites: tuple[str, ...]
    contents: Callable[[StudyData], Contents]

    def __call__(self, study: StudyData) -> Table | Absent:
        """Return the table, or what the study lacks for it."""
        try:
            made = with_best(study, assemble(self.name, self.title, *self.contents(study)))
        except Lacking as lacking:
            return Absent(self.name, self.title, str(lacking), lacking.fine)
        return aged_table(made, study, self.suites)


@dataclass(frozen=True)
class FigureMaker:
    """One or more figures of a report, made by calling it with a study, on numbers of `suites`."""

    name: str
    title: str
    suites: tuple[str, ...]
    sketches: Callable[[StudyData], Iterable[Named]]

    def __call__(self, study: StudyData) -> Iterator[Drawing | Absent]:
        """Yield the figures in the style of reports, or what they lack, once if it is the same."""
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
    """A section of the page: the tables and figures shown, in order, and those folded away."""

    anchor: str
    title: str
    shown: tuple[TableMaker | FigureMaker, ...]
    folded: tuple[TableMaker | FigureMaker, ...] = ()


def as_table(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Contents]], TableMaker]:
    """Turn a function that returns a table's contents, or raises `Lacking`, into its maker."""
    return partial(TableMaker, name, title, suites)


def as_figure(
    name: str, title: str, *suites: str
) -> Callable[[Callable[[StudyData], Sketch]], FigureMaker]:
    """Turn a function that returns a sketch, or raises `Lacking`, into the maker of one figure."""
    return lambda sketch: FigureMaker(
        name, title, suites, lambda study: [(name, title, partial(sketch, study))]
    )


def as_figures(
    name: str, heading: str, *suites: str
) -> Callable[[Callable[[StudyData, Condition], Sketch]], FigureMaker]:
    """Turn a function of a study and a condition into the maker of a figure per condition."""
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
    """Turn a function that yields named figures into their maker."""
    return partial(FigureMaker, name, title, suites)
