"""`status --watch`: a study followed from outside, until nothing of it goes on any more."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.cli.board import AROUND_WORKERS, show_board
from bench.cli.standing import Standing, board_of, read_standing, run_lines, text_of, with_progress
from results import Store

SECONDS = 2
"""Between two looks at the database."""

PAUSE = 20
"""Of the time that reading a whole study takes, until it is read again: timings may run beside."""


def follow(store: Store, study: str, console: Console | None = None) -> None:
    """Show how the study stands until no run of it goes on: in place, or in a pipe as text."""
    console = console or Console(highlight=False)
    standing, read_again = _read(store, study)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while standing.living:
            if console.is_terminal:
                live.update(_drawn(standing, console), refresh=True)
            else:
                console.print(Text(text_of(standing)), "", sep="\n", soft_wrap=True)
            time.sleep(SECONDS)
            if time.monotonic() >= read_again:
                standing, read_again = _read(store, study)
            else:
                standing = with_progress(standing, store)


def _read(store: Store, study: str) -> tuple[Standing, float]:
    """How the study stands, and when to read all of it again."""
    begun = time.monotonic()
    standing, now = read_standing(store, study), time.monotonic()
    return standing, now + PAUSE * (now - begun)


def _drawn(standing: Standing, console: Console) -> Group:
    head = Text("\n".join((f"Study {standing.study}", *run_lines(standing))))
    room = max(console.height - AROUND_WORKERS - len(standing.living), 1)
    return Group(head, show_board(board_of(standing), standing.now, console.width, room))
