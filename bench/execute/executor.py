"""Executors, which do the jobs of a run: the interface, and the one that uses this process.

The other implementation is in `processes`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import torch

from bench.config import TrialSpec
from bench.data import Datasets
from bench.execute.context import JobContext, RunContext
from bench.execute.devices import CPU, StoppedWaiting, devices_of, own_device
from bench.execute.events import OnEvent
from bench.execute.failures import Check, rehearse
from bench.execute.jobs import Assignment, Result, WorkerFailure
from bench.execute.worker import do_job
from results import Store
from results.store.records import AttemptStatus


class Executor(Protocol):
    """The interface of an executor, which does jobs, one at a time in each slot.

    Attributes:
        slots: the device of each slot.
    """

    slots: tuple[str, ...]

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterable[Check]:
        """Rehearse trainings, see `rehearse`; return a check for each."""

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        """Begin a job in a free slot; its events arrive during this call or during `wait`."""

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        """Wait at most this many seconds; return the slots that became free, with their results."""

    def request_stop(self, slot: int) -> None:
        """Ask the job in a slot to save what it has and end."""

    def request_stop_all(self) -> None:
        """Ask all jobs, including those still to start, to save what they have and end."""

    def kill(self) -> None:
        """End all jobs at once."""


class LocalExecutor:
    """An executor that does jobs in this process, for a debugger: `start` returns when one is done.

    Args:
        stop: returns whether the run was asked to stop.
    """

    def __init__(
        self,
        device: str,
        context: RunContext,
        store: Store,
        datasets: Datasets,
        stop: Callable[[], bool],
    ) -> None:
        self.slots: tuple[str, ...] = (device,)
        self._context, self._store, self._datasets = context, store, datasets
        self._run_stops, self._job_stops = stop, False
        self._finished: list[tuple[int, Result | WorkerFailure]] = []

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterable[Check]:
        return [partial(rehearse, spec, self._datasets, torch.device(CPU)) for spec in specs]

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        self._job_stops = False
        device = own_device(devices_of(self.slots[slot])[0])
        context = JobContext(
            self._context,
            self._store,
            self._datasets,
            device,
            on_event,
            stop=lambda: self._job_stops or self._run_stops(),
        )
        result: Result | WorkerFailure = WorkerFailure(AttemptStatus.INTERRUPTED, "it did not end")
        try:
            result = do_job(assignment, context)
        except StoppedWaiting as stopped:
            result = WorkerFailure(AttemptStatus.INTERRUPTED, str(stopped))
        finally:  # after an error too, or the job would seem to be at work
            self._finished.append((slot, result))

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        finished, self._finished = self._finished, []
        return finished

    def request_stop(self, slot: int) -> None:
        self._job_stops = True

    def request_stop_all(self) -> None:
        """Do nothing: nothing runs between two jobs, and a running job checks `stop` itself."""

    kill = request_stop_all
