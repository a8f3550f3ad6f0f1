"""Where the jobs of a run come from that are not known when it begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from bench.execute.events import Progress
from bench.execute.jobs import Job


class Source(Protocol):
    """Is told how jobs go, and says what follows from it."""

    def seen(self, job: Job, progress: Progress) -> str | None:
        """Why a training that is so far is to stop now; None where it is to go on."""

    def over(self, job: Job) -> Iterable[Job]:
        """The jobs that follow one that is over, or was over already when it was to begin."""


class NoMore:
    """All jobs were known at the beginning, and each goes on to its end."""

    def seen(self, job: Job, progress: Progress) -> str | None:
        """It goes on."""
        return None

    def over(self, job: Job) -> Iterable[Job]:
        """There are none."""
        return ()
