"""The page of a running study: polled from the database, and made again when the study changed.

This does not disturb a run: the database is opened read-only and closed after each reading,
reading and drawing take a small share of the time, and nothing is drawn while a layer is timed.
"""

import threading
import time
from contextlib import suppress
from html import escape
from pathlib import Path

import pandas as pd

from bench.cli.board import unfinished
from report import state_of
from report.study import load_study
from report.write import page_of
from results import Store, open_store
from results.connect import resolve
from results.frames import measurements_frame, trials_frame
from results.store.leases import alive
from results.text import counted

SECONDS = 2.0
"""Least number of seconds between two readings of the database."""
PAUSE, PAUSE_DRAWING = 10, 5
"""Pause after a reading, and after making a page, in multiples of the processor time it took."""
WATCHED = 60.0
"""Seconds for which the page is still made after a browser last asked for it."""
POLL = 3000
"""Milliseconds between two requests of the page for the state."""
TEMPLATES = Path(__file__).parent / "templates"
LIVE = (TEMPLATES / "live.html").read_text(encoding="utf-8")
"""The status line on a page and the script that updates it."""
FIRST = (TEMPLATES / "first.html").read_text(encoding="utf-8")
"""The page that is shown until the first one is made."""


class LivePage:
    """The page of a study and its state, kept up to date by `watch` in a thread of its own.

    Args:
        database: path or URL of the database.
        study: the study's name.
        home: the folder that the paths of its logs are relative to.
    """

    def __init__(self, database: str, study: str, home: Path) -> None:
        self._database, self._study, self._home = database, study, home
        self._closed = threading.Event()
        self._asked = time.monotonic()
        self._files: list[tuple[int, int] | None] | None = None
        self._state = self._page = ""
        self._living = True
        self._html = FIRST.replace("STUDY", escape(study))
        self._line, self._logs = "reading the database", frozenset[str]()
        self._fault, self._draw_again = "", 0.0
        self._drawing: threading.Thread | None = None

    def html(self) -> str:
        """Return the latest page, with the status line and the script that keep it up to date."""
        self._asked = time.monotonic()
        live = LIVE.replace("PAGE", self._page).replace("POLL", str(POLL))
        before, end, after = self._html.rpartition("</body>")
        return "".join(
            (before, live.replace("LINE", escape(self._fault or self._line)), end, after)
        )

    def state(self) -> dict[str, str]:
        """Return the state of the latest page, and a line on the state of the study."""
        self._asked = time.monotonic()
        return {"page": self._page, "line": self._fault or self._line}

    def log(self, name: str) -> Path | None:
        """Return the log file of this name; None if it is not the study's or not in the home."""
        if name not in self._logs:
            return None
        file = (self._home / name).resolve()
        return file if file.is_relative_to(self._home.resolve()) and file.is_file() else None

    def close(self) -> None:
        """Make `watch` return."""
        self._closed.set()

    def watch(self) -> None:
        """Keep the page up to date until `close`; if something cannot be read, try again later."""
        pause = 0.0
        while not self._closed.wait(pause):
            try:
                pause = self.refresh()
            except Exception as error:  # whatever it is, the server keeps the page it has
                self._files, pause = None, SECONDS
                self._line = f"the study cannot be shown now: {error}"

    def refresh(self) -> float:
        """Read the study if its database changed; start making its page if the study changed.

        Returns:
            Seconds until it should be called again.
        """
        begun, files = time.thread_time(), self._stamps()
        drawing = self._drawing is not None and self._drawing.is_alive()
        same = files is not None and files == self._files
        # A run that was killed writes nothing more: whether one is alive is asked each time.
        if same and not self._living and (self._state == self._page or drawing):
            return SECONDS
        with open_store(self._database, create=False, read_only=True) as store:
            self._read(store)
            due = not drawing and self._may_draw(store)
        if due:
            self._drawing = threading.Thread(target=self._draw, daemon=True)
            self._drawing.start()
        self._files = files
        return max(SECONDS, PAUSE * (time.thread_time() - begun))

    def _read(self, store: Store) -> None:
        """Read the study's state, status line and logs."""
        record = store.find_study(self._study)
        trials = trials_frame(store, record.name)
        measurements = measurements_frame(store, record.name)
        self._logs = frozenset(trials["log"].dropna())
        self._living = any(map(alive, store.runs(record.name)))
        self._line = line_of(trials, measurements, self._living)
        self._state = state_of(record.request, trials, measurements)

    def _may_draw(self, store: Store) -> bool:
        """Tell whether the page is due, somebody is viewing it, and nothing is being timed."""
        now = time.monotonic()
        due = self._state != self._page and now >= self._draw_again
        seen = now - self._asked < WATCHED or not self._page
        return due and seen and not any(not e.trial and alive(e.run) for e in store.leases())

    def _draw(self) -> None:
        """Make the page; if that fails, the status line says why."""
        begun = time.thread_time()
        try:
            with open_store(self._database, create=False, read_only=True) as store:
                data = load_study(store, self._study)
            self._html = page_of(data, self._home)
            self._page, self._fault = data.state, ""
        except Exception as error:  # tried again when the study has changed
            self._page, self._fault = self._state, f"the page cannot be made: {error}"
        self._draw_again = time.monotonic() + PAUSE_DRAWING * (time.thread_time() - begun)

    def _stamps(self) -> list[tuple[int, int] | None] | None:
        """Return time and size of a SQLite file and its log; None for other databases."""
        url = resolve(self._database)
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        stamps: list[tuple[int, int] | None] = []
        for ending in ("", "-wal"):
            stamps.append(None)
            with suppress(OSError):
                stat = Path(url.database + ending).stat()
                stamps[-1] = stat.st_mtime_ns, stat.st_size
        return stamps


def line_of(trials: pd.DataFrame, measurements: pd.DataFrame, living: bool) -> str:
    """Return the status line `live: 3 of 9 trials done, 1 running, last result 14:03:22`.

    Args:
        living: whether the study is being run.
    """
    counts = trials["status"].value_counts().to_dict()
    parts = [f"{counts.get('done', 0)} of {counted(len(trials), 'trial')} done"]
    parts += unfinished(counts)
    times = [*trials["finished_at"].dropna(), *measurements["at"].dropna()]
    if times:
        last = max(times).to_pydatetime().astimezone()
        parts.append(f"last result {last:%H:%M:%S}")
    return f"{'live' if living else 'not running'}: {', '.join(parts)}"
