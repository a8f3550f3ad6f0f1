"""Links of the page: from a number to the trials behind it, in the tables of trials and layers."""

from __future__ import annotations

from collections.abc import Iterable

from report.parts import Absent
from report.tables.table import Row, Table

LISTS = ("trial", "layer")
"""Columns that hold what a row is the trial or the layer of; its table has a row for each."""


class Links:
    """Where on the page each trial and each bare layer stands."""

    def __init__(self, parts: Iterable[Table | Absent]) -> None:
        self._places: dict[str, list[str]] = {}
        for table in parts:
            if isinstance(table, Table):
                for number, row in enumerate(table.rows):
                    if listed := self._listed(table, row):
                        self._places.setdefault(listed, []).append(f"{table.name}-{number}")

    def anchor(self, table: Table, number: int) -> str:
        """The id of a row that lists a trial or a layer; "" of any other."""
        return f"{table.name}-{number}" if self._listed(table, table.rows[number]) else ""

    def behind(self, trials: Iterable[str]) -> list[str]:
        """The ids of the rows of these trials."""
        return [place for trial in trials for place in self._places.get(trial, [])]

    def _listed(self, table: Table, row: Row) -> str | None:
        keys = [column.key for column in table.columns]
        cells = [row.cells[keys.index(key)] for key in LISTS if key in keys]
        return next((cell.trials[0] for cell in cells if cell.trials), None)
