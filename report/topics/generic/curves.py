"""The curves of what a suite measured at the snapshots of trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, Drawing, draw_line, folded, panels, router_legend, style
from report.table import ARROWS, Absent, number_of_runs
from report.topics.generic.cards import SHOWN, Place, cards
from report.topics.generic.numbers import Numbers

MOST = 6
"""Metrics that are drawn."""
CAPTION = (
    "What suite {suite} measured at snapshots of the trainings, against the training steps until "
    "then: {what}. Line: mean over the seeds ({counts}); band: from the lowest to the highest seed "
    "(none where n = 1).{more}"
)


@dataclass(frozen=True)
class Curves:
    """The figure of one suite: a panel for each metric, the main one first."""

    numbers: Numbers

    @property
    def name(self) -> str:
        return f"{SHOWN}{self.numbers.card.slug}"

    @property
    def title(self) -> str:
        return f"{self.numbers.card.title} along training"

    def draw(self, study: StudyData) -> Iterator[Drawing | Absent]:
        """Draw one figure for each condition."""
        ordered = self.numbers.ordered(set(self.numbers.snapshots["place"]))
        for name, heading, condition in study.by_condition(self.name, self.title):
            drawn = {place: self._lines(study.under(condition), place) for place in ordered}
            shown = {place: lines for place, lines in drawn.items() if lines}
            if not shown:
                why = f"suite {self.numbers.card.name} measured no snapshot of a finished trial"
                yield Absent(name, heading, why)
            else:
                yield self._drawing(name, heading, shown)

    def _drawing(
        self, name: str, heading: str, shown: Mapping[Place, Mapping[Entry, pd.DataFrame]]
    ) -> Drawing:
        study, few = self.numbers.study, list(shown)[:MOST]
        runs: dict[Entry, int] = {}
        for place in few:
            for entry, points in shown[place].items():
                runs[entry] = max(runs.get(entry, 0), int(points["n"].max()))
        with style():
            figure, drawn = panels(len(few), 2, PAGE, 2.0 + 0.05 * len(runs))
            for axes, place in zip(drawn, few, strict=True):
                self._panel(axes, place, shown[place])
            router_legend(figure, {entry.router: study.styles[entry.router] for entry in runs}, 3)
        meanings = (f"{p.label}: {self.numbers.card.definition(p.metric).meaning}" for p in few)
        caption = CAPTION.format(
            suite=self.numbers.card.name,
            what="; ".join(each.strip().rstrip(".:") for each in meanings),
            counts=number_of_runs({entry.router: n for entry, n in runs.items()}),
            more=f" The first {MOST} of {len(shown)} metrics." if len(shown) > MOST else "",
        )
        return Drawing(name, heading, caption, figure, tuple(runs))

    def _lines(self, entries: list[Entry], place: Place) -> dict[Entry, pd.DataFrame]:
        """Find the points of each entry with any: of the network, else the mean over its layers."""
        rows = self.numbers.snapshots
        rows = rows[(rows["place"] == place) & np.isfinite(rows["value"])]
        whole = rows[rows["layer"].isna()]
        by_entry = dict(iter((rows if whole.empty else whole).groupby("entry")))
        return {entry: _points(by_entry[entry]) for entry in entries if entry in by_entry}

    def _panel(self, axes: Axes, place: Place, lines: Mapping[Entry, pd.DataFrame]) -> None:
        column = self.numbers.column(place.metric, place.metric, place.label)
        for entry, points in lines.items():
            spread = ["mean", "low", "high"]
            points = points.assign(**(points[spread] * column.scale))
            draw_line(axes, self.numbers.study.styles[entry.router], points, "step")
        axes.set_xlabel("training steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylabel(folded(f"{column.heading}{ARROWS[column.better]}", 30))
        axes.grid()


def curves(study: StudyData) -> list[Curves]:
    """Return the figure of each suite that measured snapshots."""
    by_suite = (Numbers.of(study, card) for card in cards(study))
    return [Curves(numbers) for numbers in by_suite if len(numbers.snapshots)]


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarise each snapshot: mean step; mean, lowest, highest and number of the seeds' values.

    Snapshots lie at the same shares of a training, whose steps differ where seconds decide them.
    """
    seeds = rows.groupby(["seed", "step"], as_index=False)["value"].mean()
    by_snapshot = seeds.groupby(seeds.groupby("seed").cumcount())
    return by_snapshot.agg(
        step=("step", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        n=("value", "size"),
    ).astype(float)
