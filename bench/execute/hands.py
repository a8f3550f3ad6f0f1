"""Who does jobs: worker processes (see `workers`), or this process itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from bench.execute.assignment import Assignment, Result
from bench.execute.events import Event
from bench.execute.local import do
from bench.execute.locks import StoppedWaiting
from bench.execute.workplace import Workplace
from results.records import AttemptStatus


@dataclass(frozen=True)
class Lost:
    """A worker that ended without a result.

    Attributes:
        status: what becomes of its attempt.
        error: one line.
        leave: why the whole run is to end, where it is.
    """

    status: AttemptStatus
    error: str
    traceback: str | None = None
    leave: str | None = None


Tell = Callable[[int, Event], None]
"""Is told each event, and the slot that it comes from."""


class Hands(Protocol):
    """Works on up to one job a slot. `slots` are their devices."""

    slots: tuple[str, ...]

    def start(self, slot: int, assignment: Assignment) -> None:
        """Begin a job in a free slot."""

    def wait(self, seconds: float) -> list[tuple[int, Result | Lost]]:
        """The slots that became free, after so many seconds at most."""

    def stop(self) -> None:
        """Ask all to save what they have, and to leave."""

    def dismiss(self, slot: int) -> None:
        """Ask one to save what it has, and to leave."""

    def kill(self) -> None:
        """End all at once."""


class Here:
    """In this process, for a debugger: `start` returns when the job is done.

    Args:
        device: where it works.
        work: the surroundings, given where events of a job go.
    """

    def __init__(self, device: str, work: Workplace) -> None:
        self.slots: tuple[str, ...] = (device,)
        self._work = replace(work, stop=lambda: self._dismissed or work.stop())
        self._dismissed = False
        self._over: list[tuple[int, Result | Lost]] = []

    def start(self, slot: int, assignment: Assignment) -> None:
        how: Result | Lost
        self._dismissed = False
        try:
            how = do(assignment, self._work)
        except StoppedWaiting as stopped:
            how = Lost(AttemptStatus.INTERRUPTED, str(stopped))
        self._over.append((slot, how))

    def wait(self, seconds: float) -> list[tuple[int, Result | Lost]]:
        over, self._over = self._over, []
        return over

    def stop(self) -> None:
        """Between two jobs there is nothing to stop; within one, the workplace asks."""

    def dismiss(self, slot: int) -> None:
        self._dismissed = True

    kill = stop
