"""What a worker process does: one job, from its assignment to rows, or one rehearsal."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import suites  # noqa: F401
from bench.config import TrialSpec
from bench.data import Datasets, SharedDataset
from bench.execute.context import JobContext, RunContext, begin_process, log
from bench.execute.devices import CPU
from bench.execute.events import Ended, Event, Measured, Measuring, Opened, Progress, Started
from bench.execute.executor import do_job
from bench.execute.jobs import Assignment, Result
from bench.execute.plugins import OPENED
from bench.execute.preflight import rehearse
from results import open_store


def work(
    assignment: Assignment,
    run: RunContext,
    datasets: Mapping[str, SharedDataset],
    events: Connection,
) -> Result:
    """Do one job; send this process's number through `events`, then what happens.

    SIGTERM asks it to save what it has and to end.
    """
    requests: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        requests.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    os.setpgid(0, 0)  # so that what it starts can be ended with it
    events.send(os.getpid())
    device = begin_process(assignment.log, assignment.device, run.plugins)

    def emit(event: Event) -> None:
        log(_line(event))
        try:
            events.send(event)
        except BrokenPipeError:  # nobody waits for this job any more
            os._exit(1)

    with open_store(run.database, create=False) as store:
        context = JobContext(
            run, store, Datasets(datasets), device, emit, stop=lambda: bool(requests)
        )
        result = do_job(assignment, context)
        if OPENED.names:
            emit(Opened(OPENED.names))
        return result


def rehearse_in_worker(
    spec: TrialSpec, run: RunContext, datasets: Mapping[str, SharedDataset]
) -> None:
    """Rehearse a training, see `rehearse`, on the CPU of a process of its own."""
    device = begin_process(Path(run.home, "logs", "rehearsals.log"), CPU, run.plugins)
    rehearse(spec, Datasets(datasets), device)


def _line(event: Event) -> str:
    match event:
        case Started(task, reason):
            return f"{task.name}, seed {task.seed}: training: {reason}"
        case Progress(_, step, steps, loss, accuracy):
            seen = "" if accuracy is None else f", validation top-1 {100 * accuracy:.1f} %"
            return f"step {step} of {steps}, loss {loss:.4f}{seen}"
        case Ended(_, status, seconds, error):
            return f"training {status} after {seconds:.1f} s{f': {error}' if error else ''}"
        case Measuring(_, suite):
            return f"measuring {suite}"
        case Measured(_, suite, status, seconds, error):
            return f"{suite} {status} after {seconds:.1f} s{f': {error}' if error else ''}"
    return str(event)
