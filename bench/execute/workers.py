"""A process for each job: started, listened to, and told apart by how it ends."""

from __future__ import annotations

import os
import signal
import time
from concurrent import futures
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection

from pebble import ProcessExpired, ProcessFuture

from bench.execute.assignment import Assignment, Result, Surroundings
from bench.execute.events import Waiting
from bench.execute.fork_server import fork_server, forked
from bench.execute.hands import Lost, Tell
from bench.execute.locks import StoppedWaiting
from bench.execute.plugins import PluginChangedError
from bench.execute.training import DISK_FULL, describe, is_disk_full
from bench.execute.worker import work
from results import StoreError
from results.records import AttemptStatus

OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit statuses of a worker that was stopped by somebody else, and not by a fault of its own."""


GRACE = 10.0
"""Seconds that a worker which took too long has to save what it has."""

FIRST_WORD = 5.0
"""Seconds in which a worker that was just started says its process id, if all is well."""


@dataclass
class _Busy:
    """A slot at work.

    Attributes:
        pid: of the worker, and of its process group; None until it has said it.
        since: when it began to work; None while it waits for the machine.
        late: whether it was asked to leave since it took too long.
        open: whether it may say more.
    """

    future: ProcessFuture[Result]
    events: Connection
    pid: int | None = None
    since: float | None = None
    late: bool = False
    open: bool = True

    def signal(self, number: signal.Signals) -> None:
        """To the worker alone; SIGKILL also to the processes that it has started."""
        if self.pid is not None:
            send = os.killpg if number == signal.SIGKILL else os.kill
            with suppress(ProcessLookupError):
                send(self.pid, number)

    @property
    def gone(self) -> bool:
        """Whether the worker has ended, if not all that it started."""
        try:
            os.kill(self.pid or os.getpid(), 0)
        except ProcessLookupError:
            return True
        return False


class Workers:
    """A process for each job, forked from a server that has everything loaded and no device.

    Args:
        slots: the device of each worker.
        surroundings: shared by all jobs.
        timeout: seconds for one job, waiting for the machine left out; None lets it take what it
            takes.
        tell: see `Tell`; called in `wait`.
    """

    def __init__(
        self, slots: tuple[str, ...], surroundings: Surroundings, timeout: float | None, tell: Tell
    ) -> None:
        self.slots = slots
        self._surroundings, self._timeout, self._tell = surroundings, timeout, tell
        self._context = fork_server()
        self._begin = forked(work, timeout=None)
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
                over.append((slot, self._outcome(busy)))
            else:
                self._watch(busy)
        return over

    def stop(self) -> None:
        self._stopping = True
        for busy in self._busy.values():
            busy.signal(signal.SIGTERM)

    def dismiss(self, slot: int) -> None:
        self._busy[slot].signal(signal.SIGTERM)

    def kill(self) -> None:
        for busy in self._busy.values():
            if busy.pid is None:
                busy.pid = _first_word(busy)
            busy.signal(signal.SIGKILL)
            if busy.pid is None:
                # Not for the others: pebble's thread would find its future cancelled when it wants
                # to write down how the process ended.
                busy.future.cancel()

    def _watch(self, busy: _Busy) -> None:
        """End what holds on to the pipes of a worker that is gone, and one that takes too long."""
        if busy.gone:
            busy.signal(signal.SIGKILL)
        if self._timeout is None or busy.since is None:
            return
        over = time.monotonic() - busy.since - self._timeout
        if over > 0 and not busy.late:
            busy.late = True
            busy.signal(signal.SIGTERM)
        elif over > GRACE:
            busy.signal(signal.SIGKILL)

    def _hear(self, slot: int, busy: _Busy) -> None:
        """All that a worker has said until now."""
        while busy.open:
            try:
                if not busy.events.poll():
                    return
                said = busy.events.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
                busy.open = False
                return
            if isinstance(said, Waiting):
                busy.since = None
            elif busy.since is None:
                busy.since = time.monotonic()
            if not isinstance(said, int):
                self._tell(slot, said)
                continue
            busy.pid = said
            if self._stopping:
                busy.signal(signal.SIGTERM)

    def _outcome(self, busy: _Busy) -> Result | Lost:
        how = _how(busy.future, self._stopping)
        if busy.late and not (isinstance(how, Result) and how.status == AttemptStatus.DONE):
            return Lost(
                AttemptStatus.TIMED_OUT, f"it took longer than {self._timeout:g} s (--timeout)"
            )
        return how


def _first_word(busy: _Busy) -> int | None:
    """The process id that a worker says before anything else; None where it says nothing."""
    try:
        said = busy.events.recv() if busy.events.poll(FIRST_WORD) else None
    except (EOFError, OSError):
        return None
    return said if isinstance(said, int) else None


def _how(future: ProcessFuture[Result], stopping: bool) -> Result | Lost:
    try:
        return future.result()
    except ProcessExpired as expired:
        return _expired(expired.exitcode, stopping)
    except CancelledError:
        return Lost(AttemptStatus.INTERRUPTED, "it was ended at once")
    except PluginChangedError as changed:
        return Lost(AttemptStatus.INTERRUPTED, str(changed), leave=str(changed))
    except Exception as error:
        # The database's troubles are not the trial's.
        outside = stopping or isinstance(error, (StoreError, StoppedWaiting))
        status = _failed_unless(outside or is_disk_full(error))
        trace = str(error.__cause__) if error.__cause__ else None
        return Lost(status, describe(error), trace, DISK_FULL if is_disk_full(error) else None)


def _failed_unless(interrupted: bool) -> AttemptStatus:
    return AttemptStatus.INTERRUPTED if interrupted else AttemptStatus.FAILED


def _expired(exitcode: int, stopping: bool) -> Lost:
    """How a process that just ended did so."""
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        outside = stopping or exitcode in OUTSIDE
        hint = ", as the kernel does where memory runs out" if exitcode == -signal.SIGKILL else ""
        return Lost(_failed_unless(outside), f"its process was killed by {name}{hint}")
    return Lost(
        _failed_unless(stopping), f"its process ended with exit status {exitcode} and no result"
    )
