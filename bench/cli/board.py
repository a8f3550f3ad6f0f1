"""How a run stands at one moment, and how that looks: on a terminal, and as a line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.cli.display import clock, duration
from results.forecasts import Pace, Seen, Work, forecast
from results.text import counted

UNDER_WAY = ("running", "elsewhere", "interrupted", "waiting")
"""Statuses of trials that have no result yet; every other one is an end."""

HEADINGS = ("", "seed", "step", "loss", "top-1 %", "left")

BAR = 20
"""Columns of the bar."""

AROUND_WORKERS = 6
"""Lines of a terminal that are not for workers."""

GAP = 2
"""Columns between two cells."""


@dataclass(frozen=True)
class Worker:
    """The work of one worker at one moment.

    Attributes:
        name: the router, and what sets the trial apart from its others.
        seed: None for a bare layer.
        doing: "training", or the suite that measures.
        loss: of the training steps, or None before the first is known.
        accuracy: top-1 on the validation split, from 0 to 1.
        left: seconds until its trial is done; None where it is not known.
    """

    name: str
    seed: int | None
    doing: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    accuracy: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Board:
    """A run, or a whole study, at one moment.

    Attributes:
        counts: trials by status.
        worth: trials that are through, and the shares of those under way.
        layers: bare layers that were measured, and that are to be in all.
        rate: trials an hour.
        left: seconds until all is done.
    """

    counts: Mapping[str, int]
    worth: float
    layers: tuple[int, int]
    rate: float | None
    left: float | None
    workers: tuple[Worker, ...]

    @property
    def total(self) -> int:
        """The number of all trials."""
        return sum(self.counts.values())

    def status(self) -> str:
        """Return the counts as text: `12 of 24 trials done, 2 running, 1 failed, 9 waiting`."""
        done, all_ = self.counts.get("done", 0), counted(self.total, "trial")
        parts = [f"{done} of {all_} done"] if self.total else []
        failed = [status for status in self.counts if status not in ("done", *UNDER_WAY)]
        for status in ("running", *sorted(failed), *UNDER_WAY[1:]):
            if self.counts.get(status):
                where = "in another run" if status == "elsewhere" else status.replace("_", " ")
                parts.append(f"{self.counts[status]} {where}")
        measured, layers = self.layers
        if layers:
            parts.append(f"{measured} of {counted(layers, 'layer')}")
        return ", ".join(parts)

    def pace(self, now: datetime) -> str:
        """Return `38 trials/h, ends 07:42 CET (in 5 h 03 min)`, as far as it is known."""
        rate = None if self.rate is None else f"{self.rate:.{0 if self.rate >= 9.95 else 1}f}"
        parts = [f"{rate} trials/h"] if rate else []
        if self.left:
            end = now + timedelta(seconds=self.left)
            parts.append(f"ends {clock(end, now)} (in {duration(self.left)})")
        return ", ".join(parts)

    def line(self, now: datetime) -> str:
        """Return all but the workers, as one line of text."""
        return "; ".join(filter(None, (self.status(), self.pace(now))))


def make_board(
    counts: Mapping[str, int],
    layers: tuple[int, int],
    under_way: Sequence[tuple[Worker, Work]],
    waiting: Sequence[Work],
    own: Seen,
    earlier: Seen,
    *,
    jobs: int,
    ended: int,
    fresh: int,
    seconds: float | None,
) -> Board:
    """Return the board of a run, with the pace and the end that follow from what it has done.

    Args:
        counts: trials by status.
        layers: bare layers that were measured, and that are to be in all.
        under_way: what each worker does, and what is left of its trial or bare layer.
        waiting: what is left of those that nobody works on.
        own: what the run has trained and measured.
        earlier: what was trained and measured before on its machine.
        jobs: workers; 0 where no run goes on, which then has no end to forecast.
        ended: trials that have ended.
        fresh: trials that have ended since the run began.
        seconds: since it began; None where none ever did.
    """
    running = [work for _, work in under_way if not work.layer]
    pace = Pace(own, earlier, running)
    # A trial that is measured has ended already.
    shares = sum(work.trained for worker, work in under_way if worker.doing == "training")
    works = [*(work for _, work in under_way), *waiting]
    ends = forecast(works, pace, max(jobs, len(running))) if jobs else None
    through = fresh + shares
    return Board(
        counts,
        ended + shares,
        layers,
        3600 * through / seconds if through and seconds and seconds > 0 else None,
        None if ends is None else ends.whole,
        tuple(
            worker if work.layer else replace(worker, left=pace.left(work) or None)
            for worker, work in under_way
        ),
    )


def show_board(board: Board, now: datetime, width: int, room: int) -> RenderableType:
    """Return a board for a terminal: counts, bar and pace, then a line for each worker.

    Args:
        width: columns of the terminal.
        room: lines that there are for the workers.
    """
    workers = worker_lines(board.workers[:room], width)
    if len(board.workers) > room:
        workers.append(f"and {len(board.workers) - room} more")
    counts = Text(board.status(), "bold")
    return Group(counts, _bar(board, now), Text("\n".join(workers), no_wrap=True))


def worker_lines(workers: Sequence[Worker], width: int) -> list[str]:
    """Return a heading and a line for each worker; the name takes the columns that are left."""
    if not workers:
        return []
    rows = [HEADINGS, *map(_cells, workers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - GAP * len(widths[1:]), 10))
    return [
        (" " * GAP).join(
            cell.ljust(columns) if place in (0, 2) else cell.rjust(columns)
            for place, (cell, columns) in enumerate(zip(row, widths, strict=True))
        )
        for row in ((_cut(name, widths[0]), *others) for name, *others in rows)
    ]


def _bar(board: Board, now: datetime) -> Table:
    measured, layers = board.layers
    share = board.worth / board.total if board.total else measured / max(layers, 1)
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_row(
        ProgressBar(total=1.0, completed=share, width=BAR),
        f"{100 * share:.0f} %",
        Text(board.pace(now), no_wrap=True, overflow="ellipsis"),
    )
    return made


def _cells(worker: Worker) -> tuple[str, ...]:
    """Name, seed, what it does, loss, accuracy in percent, and time left."""
    return (
        worker.name,
        "" if worker.seed is None else str(worker.seed),
        f"{worker.step}/{worker.steps}" if worker.steps else worker.doing,
        "" if worker.loss is None else f"{worker.loss:.3f}",
        "" if worker.accuracy is None else f"{100 * worker.accuracy:.1f}",
        "" if worker.left is None else duration(worker.left),
    )


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
