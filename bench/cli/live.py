"""A run as it happens: a line for what ends and, on a terminal, what is running below."""

import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.cli.display import duration, first_line
from bench.cli.standing import SECONDS, Monitor, board_of, drawn, read_standing
from bench.execute import Begun, Ended, Event, Leaving, Measured, Reused, Started, Task, Waiting
from results import Store, StoreError

COLOURS = {
    "done": "green",
    "skipped": "dim",
    "interrupted": "yellow",
    "pruned": "yellow",
    "waiting": "dim",
}
PLAIN_SECONDS = 300
"""Seconds between two lines on the state of the run, if there is no terminal."""


class Display:
    """A listener to a run's events that prints what ends and, on a terminal, the board below it.

    Args:
        store: the database that the run writes to and the board is read from.
        study: the name of the run's study.
        console: where to print; None for standard output.
    """

    def __init__(self, store: Store, study: str, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._store, self._study = store, study
        self._closed = threading.Event()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._painter = threading.Thread(target=self._paint, daemon=True)
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._painter.is_alive():
            self._painter.join()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        begins = isinstance(event, Begun) and event.jobs > 0
        if begins and self._console.is_terminal:
            self._live.start()
            self._painter.start()
        self._line(event)
        due = self._last_line and time.monotonic() - self._last_line >= PLAIN_SECONDS
        if not self._console.is_terminal and (begins or due):
            self._last_line = time.monotonic()
            with suppress(StoreError):
                line = board_of(read_standing(self._store, self._study)).line(datetime.now())
                self._console.print(Text(line), soft_wrap=True)

    def _line(self, event: Event) -> None:
        match event:
            case Started(task, reason) if not self._console.is_terminal:
                self._print(task, "training", reason)
            case Leaving(reason):
                line = f"stopping: {reason}; running trials save their state"
                self._console.print(Text(line, "yellow"), soft_wrap=True)
            case Waiting(task, holder, machine):
                why = "for the machine, which is in use" if machine else "another run works on it"
                self._print(task, "waiting", f"{why}: {holder}")
            case Reused(task, status, reason) if status != "done":
                self._print(task, status, reason)
            case Ended(task, status, seconds, error):
                self._print(task, status, error or f"trained in {duration(seconds)}")
            case Measured(task, suite, status, seconds, error):
                # A measurement of a trained trial is part of the trial's line, unless it fails.
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

    def _paint(self) -> None:
        """Draw the board until the run ends; if it cannot be read or shown, keep the last one."""
        monitor = Monitor(self._store, self._study)
        while not self._closed.is_set():
            with suppress(StoreError, OSError):
                self._live.update(drawn(monitor.read(), self._console), refresh=True)
            self._closed.wait(SECONDS)
