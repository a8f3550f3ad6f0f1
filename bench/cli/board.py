"""The state of a run at one moment, on a terminal and as a line of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.cli.display import clock, duration
from results.text import counted

OPEN = ("interrupted", "waiting")
"""Statuses of trials that have no result and that nobody works on."""
UNDER_WAY = ("running", *OPEN)
"""Statuses of trials that have no result yet; every other status is final."""
HEADINGS = ("", "seed", "step", "loss", "top-1 %", "left", "host")
"""The last heading is left out if all workers are on one host."""
BAR = 20
"""Width of the bar in columns."""
GAP = 2
"""Columns between two cells."""


def unfinished(counts: Mapping[str, int], last: Sequence[str] = ()) -> list[str]:
    """Return `2 running`, `1 timed out`: the running trials, those that failed, and `last`."""
    failed = sorted(status for status in counts if status not in ("done", *UNDER_WAY))
    return [
        f"{counts[status]} {status.replace('_', ' ')}"
        for status in ("running", *failed, *last)
        if counts.get(status)
    ]


@dataclass(frozen=True)
class Board:
    """A study at one moment.

    Attributes:
        counts: number of trials by status.
        worth: number of trials that have ended, plus the completed shares of those under way.
        layers: number of bare layers that were measured, and of those to measure in total.
        rate: trials finished per hour.
        left: seconds until all trials are done.
        workers: a row of cells for each worker, see `worker_cells`.
    """

    counts: Mapping[str, int]
    worth: float
    layers: tuple[int, int]
    rate: float | None
    left: float | None
    workers: tuple[tuple[str, ...], ...]

    @property
    def total(self) -> int:
        """The number of all trials."""
        return sum(self.counts.values())

    def status(self) -> str:
        """Return the counts as text: `12 of 24 trials done, 2 running, 1 failed, 9 waiting`."""
        done, all_ = self.counts.get("done", 0), counted(self.total, "trial")
        parts = [f"{done} of {all_} done"] if self.total else []
        parts += unfinished(self.counts, OPEN)
        measured, layers = self.layers
        if layers:
            parts.append(f"{measured} of {counted(layers, 'layer')}")
        return ", ".join(parts)

    def pace(self, now: datetime) -> str:
        """Return `38 trials/h, ends 07:42 CET (in 5 h 03 min)`, as far as known."""
        rate = None if self.rate is None else f"{self.rate:.{0 if self.rate >= 9.95 else 1}f}"
        parts = [f"{rate} trials/h"] if rate else []
        if self.left:
            end = now + timedelta(seconds=self.left)
            parts.append(f"ends {clock(end, now)} (in {duration(self.left)})")
        return ", ".join(parts)

    def line(self, now: datetime) -> str:
        """Return everything but the workers as one line of text."""
        return "; ".join(filter(None, (self.status(), self.pace(now))))


def show_board(board: Board, now: datetime, width: int, room: int) -> RenderableType:
    """Return a board for a terminal: counts, bar and pace, then a line for each worker.

    Args:
        width: width of the terminal in columns.
        room: number of lines available for workers.
    """
    measured, layers = board.layers
    share = board.worth / board.total if board.total else measured / max(layers, 1)
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(
        ProgressBar(total=1.0, completed=share, width=BAR),
        f"{100 * share:.0f} %",
        Text(board.pace(now), no_wrap=True, overflow="ellipsis"),
    )
    workers = worker_lines(board.workers[:room], width)
    if len(board.workers) > room:
        workers.append(f"and {len(board.workers) - room} more")
    return Group(Text(board.status(), "bold"), bar, Text("\n".join(workers), no_wrap=True))


def worker_cells(
    name: str,
    seed: int | None,
    progress: Mapping[str, Any],
    left: float | None,
    host: str | None = None,
) -> tuple[str, ...]:
    """Return what a worker is doing, as cells under `HEADINGS`.

    Args:
        name: the router, and what distinguishes the trial from its other trials.
        seed: None for a bare layer.
        progress: the progress recorded in its lease: `doing` is "training" or the suite that
            measures.
        left: seconds until its trial is done.
        host: the host's name, if there are several hosts.
    """
    step, steps = progress.get("step", 0), progress.get("steps", 0)
    loss, accuracy = progress.get("loss"), progress.get("accuracy")
    return (
        name,
        "" if seed is None else str(seed),
        f"{step}/{steps}" if steps else progress.get("doing", "starting"),
        "" if loss is None else f"{loss:.3f}",
        "" if accuracy is None else f"{100 * accuracy:.1f}",
        duration(left) if left else "",
        *((host,) if host else ()),
    )


def worker_lines(workers: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Return a heading and a line for each worker; the name takes the remaining columns."""
    if not workers:
        return []
    rows = [HEADINGS[: len(workers[0])], *workers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - GAP * len(widths[1:]), 10))
    lines = []
    for name, *others in rows:
        cut = name if len(name) <= widths[0] else f"{name[: widths[0] - 1]}…"
        lines.append(
            (" " * GAP).join(
                cell.ljust(columns) if place in (0, 2, 6) else cell.rjust(columns)
                for place, (cell, columns) in enumerate(zip((cut, *others), widths, strict=True))
            )
        )
    return lines
