"""Worker processes, one per job: forked, followed, and classified by how they end."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection

import psutil
from pebble import ProcessExpired, ProcessFuture

from bench.config import TrialSpec
from bench.data import SharedDataset
from bench.execute.context import RunContext
from bench.execute.devices import StoppedWaiting
from bench.execute.events import Ended, OnEvent, Waiting
from bench.execute.failures import Check
from bench.execute.fork_server import fork_server, forked, how_it_ended
from bench.execute.jobs import Assignment, Result, WorkerFailure
from bench.execute.plugins import PluginChangedError
from bench.execute.worker import rehearse_in_worker, work
from results import StoreError, UnstorableError
from results.store.records import AttemptStatus
from routers.errors import describe

OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit statuses of a worker that was stopped from outside, not by a fault of its own."""

GRACE = 10.0
"""Seconds that a worker has to save what it has after its timeout."""

FIRST_MESSAGE = 5.0
"""Seconds within which a worker that has just started normally sends its process id."""

LONGEST_REHEARSAL = 300
"""Seconds for one rehearsal; if it takes longer, the training itself is the test."""


@dataclass
class _Busy:
    """A busy slot.

    Attributes:
        events: the end of the pipe on which the worker's events arrive.
        pid: id of the worker and of its process group; None until the worker has sent it.
        since: when the worker began; None while it waits for the machine.
        late: whether the worker was stopped because it took too long.
        open: whether the worker may send more events.
    """

    future: ProcessFuture[Result | WorkerFailure]
    events: Connection
    on_event: OnEvent
    pid: int | None = None
    since: float | None = None
    late: bool = False
    open: bool = True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker; SIGKILL also to the processes that it has started."""
        if self.pid is not None:
            send = os.killpg if number == signal.SIGKILL else os.kill
            with suppress(ProcessLookupError):
                send(self.pid, number)


class ProcessExecutor:
    """An executor with a process per job, forked from a server that has everything loaded.

    The server uses no device. Time that a job waits for the machine does not count towards its
    timeout.
    """

    def __init__(
        self, slots: tuple[str, ...], context: RunContext, datasets: Mapping[str, SharedDataset]
    ) -> None:
        self.slots = slots
        self._run, self._datasets, self._timeout = context, datasets, context.options.timeout
        self._server = fork_server()
        self._begin = forked(work, timeout=None)
        self._busy: dict[int, _Busy] = {}
        self._stopping = False

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterator[Check]:
        """Rehearse each in its own process: a router that crashes costs only its own trial."""
        begin = forked(rehearse_in_worker, LONGEST_REHEARSAL)
        for first in range(0, len(specs), len(self.slots)):
            some = specs[first : first + len(self.slots)]
            begun = [begin(spec, self._run, self._datasets) for spec in some]
            yield from (future.result for future in begun)

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        reader, writer = self._server.Pipe(duplex=False)
        future = self._begin(assignment, self._run, self._datasets, writer)
        writer.close()
        self._busy[slot] = _Busy(future, reader, on_event)

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        talking = [busy.events for busy in self._busy.values() if busy.open]
        silent = [busy.future for busy in self._busy.values() if not busy.open]
        if silent:
            futures.wait(silent, timeout=0.02)
        if talking:
            connection.wait(talking, 0 if silent else seconds)
        finished = []
        for slot, busy in list(self._busy.items()):
            done = busy.future.done()
            self._receive(busy)
            if done:
                busy.events.close()
                del self._busy[slot]
                finished.append((slot, self._outcome(busy)))
            else:
                self._watch(busy)
        return finished

    def request_stop(self, slot: int) -> None:
        self._busy[slot].signal(signal.SIGTERM)

    def request_stop_all(self) -> None:
        self._stopping = True
        for busy in self._busy.values():
            busy.signal(signal.SIGTERM)

    def kill(self) -> None:
        for busy in self._busy.values():
            if busy.pid is None:  # it is the first thing that a worker sends
                with suppress(EOFError, OSError):
                    message = busy.events.recv() if busy.events.poll(FIRST_MESSAGE) else None
                    busy.pid = message if isinstance(message, int) else None
            busy.signal(signal.SIGKILL)
            if busy.pid is None:
                # Not for the others: pebble's thread would find its future cancelled when it
                # records how the process ended.
                busy.future.cancel()

    def _watch(self, busy: _Busy) -> None:
        """End a late worker, and processes that hold on to the pipes of a worker that is gone."""
        if busy.pid is not None and not psutil.pid_exists(busy.pid):
            busy.signal(signal.SIGKILL)
        if self._timeout is None or busy.since is None:
            return
        over = time.monotonic() - busy.since - self._timeout
        if over > 0 and not busy.late:
            busy.late = True
            busy.signal(signal.SIGTERM)
        elif over > GRACE:
            busy.signal(signal.SIGKILL)

    def _receive(self, busy: _Busy) -> None:
        """Pass on everything that a worker has sent so far."""
        while busy.open:
            try:
                if not busy.events.poll():
                    return
                message = busy.events.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
                busy.open = False
                return
            if isinstance(message, Waiting):
                busy.since = None
            elif busy.since is None:
                busy.since = time.monotonic()
            match message:
                case int():
                    busy.pid = message
                    if self._stopping:
                        busy.signal(signal.SIGTERM)
                case Ended(_, AttemptStatus.INTERRUPTED) if busy.late:
                    pass  # it is recorded as timed out
                case _:
                    busy.on_event(message)

    def _outcome(self, busy: _Busy) -> Result | WorkerFailure:
        outcome = _outcome_of(busy.future, self._stopping)
        ended = isinstance(outcome, Result) and not outcome.cut
        if busy.late and not (ended and outcome.status in (None, AttemptStatus.DONE)):
            error = f"it took longer than {self._timeout:g} s (--timeout)"
            return WorkerFailure(AttemptStatus.TIMED_OUT, error)
        return outcome


def _outcome_of(
    future: ProcessFuture[Result | WorkerFailure], stopping: bool
) -> Result | WorkerFailure:
    interrupted = AttemptStatus.INTERRUPTED
    try:
        return future.result()
    except ProcessExpired as expired:
        outside = stopping or expired.exitcode in OUTSIDE
        error = f"its process {how_it_ended(expired)}"
        return WorkerFailure(interrupted if outside else AttemptStatus.FAILED, error)
    except futures.CancelledError:
        return WorkerFailure(interrupted, "it was ended at once")
    except PluginChangedError as changed:
        return WorkerFailure(interrupted, str(changed), leave=str(changed))
    except Exception as error:
        # Trouble with the database is not the trial's fault; a value that cannot be stored is.
        troubles = isinstance(error, (StoreError, StoppedWaiting))
        outside = stopping or (troubles and not isinstance(error, UnstorableError))
        trace = str(error.__cause__) if error.__cause__ else None
        status = interrupted if outside else AttemptStatus.FAILED
        return WorkerFailure(status, describe(error), trace)
