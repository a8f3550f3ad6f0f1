"""A run as it happens: finished work as lines, and on a terminal what goes on below them."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from bench.cli.words import duration
from bench.execute.events import (
    Ended,
    Event,
    Measured,
    Measuring,
    Progress,
    Reused,
    Started,
    Task,
)

COLOURS = {"done": "green", "skipped": "dim"}


class Display:
    """Listens to a run; in a pipe or a file it prints plain lines alone."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._status = Status("", console=self._console)
        self._reused = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing goes on any more."""
        self._status.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Reused(_, "done", _):
                self._reused += 1
                self._status.update(f"{self._reused} trials reused")
            case Reused(task, status, reason):
                self._line(task, status, reason)
            case Started(task, reason) if self._console.is_terminal:
                self._going(task, f"training: {reason}")
            case Started(task, reason):
                self._line(task, "training", reason)
            case Progress(task, step, steps, loss, _, seconds):
                left = duration(seconds * (steps - step) / max(step, 1))
                self._going(task, f"step {step} of {steps}, loss {loss:.3f}, {left} to go")
            case Ended(task, status, seconds, error):
                self._line(task, status, error or f"trained in {duration(seconds)}")
            case Measuring(task, suite):
                self._going(task, suite)
            case Measured(task, suite, status, seconds, error):
                # What belongs to a trained trial is part of its line, unless it fails.
                if task.seed is None or status == "failed":
                    text = f"{suite}: {error}" if error else f"{suite} in {duration(seconds)}"
                    self._line(task, status, text)

    def _line(self, task: Task, status: str, text: str) -> None:
        line = Text(f"{_place(task)}  {_name(task)}  ", no_wrap=True, overflow="ellipsis")
        line.append(status.replace("_", " "), COLOURS.get(status, "bold red"))
        line.append(f"  {text}")
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _going(self, task: Task, text: str) -> None:
        line = Text(f"{_place(task)}  {_name(task)}  {text}", no_wrap=True, overflow="ellipsis")
        line.truncate(max(self._console.width - 4, 10), overflow="ellipsis")
        self._status.update(line)


def _place(task: Task) -> str:
    return f"{task.number:>{len(str(task.total))}}/{task.total}"


def _name(task: Task) -> str:
    return task.name if task.seed is None else f"{task.name}  seed {task.seed}"
