"""A worker process: from its assignment to rows in the database, then it is gone."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from types import FrameType

import suites  # noqa: F401
from bench.datasets import Datasets
from bench.execute.assignment import Assignment, Result, Surroundings
from bench.execute.events import Ended, Event, Measured, Measuring, Opened, Progress, Started
from bench.execute.local import do
from bench.execute.logs import log
from bench.execute.opened import OPENED
from bench.execute.process import begin_process
from bench.execute.workplace import Workplace
from results import open_store


def work(assignment: Assignment, surroundings: Surroundings, events: Connection) -> Result:
    """Do one job; what happens is told through `events`, this process's number first of all.

    SIGTERM asks it to save what it has and leave.
    """
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, ask)
    os.setpgid(0, 0)  # so that what it starts can be ended with it
    events.send(os.getpid())
    device = begin_process(assignment.log, assignment.device, surroundings.plugins)

    def tell(event: Event) -> None:
        log(_line(event))
        try:
            events.send(event)
        except BrokenPipeError:  # nobody waits for this job any more
            os._exit(1)

    with open_store(surroundings.database, create=False) as store:
        place = Workplace(
            store,
            surroundings.home,
            Datasets(surroundings.datasets),
            device,
            surroundings.machine_id,
            surroundings.code_id,
            tell,
            surroundings.save_every,
            lambda: bool(asked),
        )
        result = do(assignment, place)
        if OPENED.names:
            tell(Opened(OPENED.names))
        return result


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
