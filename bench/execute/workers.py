"""A process for each job: started, listened to, and told apart by how it ends."""

from __future__ import annotations

import os
import signal
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection

from pebble import ProcessExpired, ProcessFuture

from bench.execute.assignment import Assignment, Result, Surroundings
from bench.execute.fork_server import fork_server, forked
from bench.execute.hands import Lost, Tell
from bench.execute.training import describe, is_disk_full
from bench.execute.worker import work
from results import StoreError
from results.records import AttemptStatus

OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit statuses of a worker that was stopped by somebody else, and not by a fault of its own."""


@dataclass
class _Busy:
    """A slot at work; `pid` is known once the worker has said it."""

    future: ProcessFuture[Result]
    events: Connection
    pid: int | None = None
    open: bool = True


class Workers:
    """A process for each job, forked from a server that has everything loaded and no device.

    Args:
        slots: the device of each worker.
        surroundings: shared by all jobs.
        timeout: seconds for one job; None lets it take what it takes.
        tell: see `Tell`; called in `wait`.
    """

    def __init__(
        self, slots: tuple[str, ...], surroundings: Surroundings, timeout: float | None, tell: Tell
    ) -> None:
        self.slots = slots
        self._surroundings, self._timeout, self._tell = surroundings, timeout, tell
        self._context = fork_server()
        self._begin = forked(work, timeout)
        self._busy: dict[int, _Busy] = {}
        self._stopping = False

    def start(self, slot: int, assignment: Assignment) -> None:
        reader, writer = self._context.Pipe(duplex=False)
        future = self._begin(assignment, self._surroundings, writer)
        writer.close()
        self._busy[slot] = _Busy(future, reader)

    def wait(self, seconds: float) -> list[tuple[int, Result | Lost]]:
        talking = [busy.events for busy in self._busy.values() if busy.open]
        silent = [busy.future for busy in self._busy.values() if not busy.open]
        if silent:
            futures.wait(silent, timeout=0.02)
        if talking:
            connection.wait(talking, 0 if silent else seconds)
        over = []
        for slot, busy in list(self._busy.items()):
            done = busy.future.done()
            self._hear(slot, busy)
            if done:
                busy.events.close()
                del self._busy[slot]
                over.append((slot, self._outcome(busy.future)))
        return over

    def stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for busy in self._busy.values():
            if busy.pid is not None and not busy.future.done():
                with suppress(ProcessLookupError):
                    os.kill(busy.pid, number)

    def _hear(self, slot: int, busy: _Busy) -> None:
        """All that a worker has said until now."""
        try:
            while busy.open and busy.events.poll():
                said = busy.events.recv()
                if not isinstance(said, int):
                    self._tell(slot, said)
                    continue
                busy.pid = said
                if self._stopping:
                    os.kill(said, signal.SIGTERM)
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
            busy.open = False

    def _outcome(self, future: ProcessFuture[Result]) -> Result | Lost:
        try:
            return future.result()
        except TimeoutError:
            return Lost("timed_out", f"it took longer than {self._timeout:g} s (--timeout)")
        except ProcessExpired as expired:
            return _expired(expired.exitcode, self._stopping)
        except Exception as error:
            # The database's troubles are not the trial's.
            outside = self._stopping or isinstance(error, StoreError) or is_disk_full(error)
            status: AttemptStatus = "interrupted" if outside else "failed"
            trace = str(error.__cause__) if error.__cause__ else None
            return Lost(status, describe(error), trace, is_disk_full(error))


def _expired(exitcode: int, stopping: bool) -> Lost:
    """How a process that just ended did so."""
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        outside = stopping or exitcode in OUTSIDE
        hint = ", as the kernel does where memory runs out" if exitcode == -signal.SIGKILL else ""
        return Lost(
            "interrupted" if outside else "failed", f"its process was killed by {name}{hint}"
        )
    status: AttemptStatus = "interrupted" if stopping else "failed"
    return Lost(status, f"its process ended with exit status {exitcode} and no result")
