"""A run as it happens: what ends as lines and, on a terminal, what goes on below them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bench.cli.board import AROUND_WORKERS, show_board
from bench.cli.tracker import Tracker
from bench.cli.words import duration, first_line
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Leaving,
    Measured,
    Reused,
    Started,
    Task,
    Waiting,
)

COLOURS = {
    "done": "green",
    "skipped": "dim",
    "interrupted": "yellow",
    "pruned": "yellow",
    "waiting": "dim",
}

REFRESH_SECONDS = 0.25
"""Between two looks at whether anything changed: timings run beside this display."""

PLAIN_SECONDS = 300
"""Between two lines of how the run stands, where there is no terminal."""


class Display:
    """Listens to a run; in a pipe or a file it prints plain lines alone.

    Args:
        console: where to; standard output where None.
        clock: seconds that only grow.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._tracker = Tracker(clock)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._told = clock()
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._board
        )
        self._painter = threading.Thread(target=self._paint, daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._painter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing goes on any more."""
        self._closed.set()
        self._changed.set()
        if self._painter.is_alive():
            self._painter.join()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            self._tracker(event)
        self._line(event)
        self._changed.set()
        if not self._console.is_terminal:
            self._overall(event)

    def _line(self, event: Event) -> None:
        match event:
            case Started(task, reason) if not self._console.is_terminal:
                self._print(task, "training", reason)
            case Leaving(reason):
                told = f"leaving: {reason}; what goes on saves what it has"
                self._console.print(Text(told, "yellow"), soft_wrap=True)
            case Waiting(task, holder, machine):
                why = "for the machine, which is in use" if machine else "another run works on it"
                self._print(task, "waiting", f"{why}: {holder}")
            case Reused(task, status, reason) if status != "done":
                self._print(task, status, reason)
            case Ended(task, status, seconds, error):
                self._print(task, status, error or f"trained in {duration(seconds)}")
            case Measured(task, suite, status, seconds, error):
                # What belongs to a trained trial is part of its line, unless it fails.
                if task.seed is None or status == "failed":
                    text = f"{suite}: {error}" if error else f"{suite} in {duration(seconds)}"
                    self._print(task, status, text)

    def _print(self, task: Task, status: str, text: str) -> None:
        seed = "" if task.seed is None else f"  seed {task.seed}"
        place = f"{task.number:>{len(str(task.total))}}/{task.total}"
        line = Text(f"{place}  {task.name}{seed}  ", no_wrap=True, overflow="ellipsis")
        line.append(status.replace("_", " "), COLOURS.get(status, "bold red"))
        line.append(f"  {first_line(text)}")
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _overall(self, event: Event) -> None:
        """Every few minutes, and at the beginning, how the whole run stands."""
        due = self._clock() - self._told >= PLAIN_SECONDS
        if due or (isinstance(event, Begun) and (event.trials or event.layers)):
            self._told = self._clock()
            line = self._tracker.board().line(datetime.now())
            self._console.print(Text(line), soft_wrap=True)

    def _board(self) -> RenderableType:
        with self._lock:
            board = self._tracker.board()
        if not board.total and not board.layers[1]:
            return Text("")
        room = max(self._console.height - AROUND_WORKERS, 1)
        return show_board(board, datetime.now(), self._console.width, room)

    def _paint(self) -> None:
        """Draw what changed, at most every `REFRESH_SECONDS`."""
        while not self._closed.wait(REFRESH_SECONDS):
            self._changed.wait()
            self._changed.clear()
            self._live.refresh()
