"""A training that several processes of this machine share, started and followed by its worker.

The processes come from the bench's fork server. torchrun's agent ends them at once at SIGTERM,
but a worker must let them save; `torch.multiprocessing` passes errors on as text, but an attempt's
status depends on their type.
"""

import signal
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pebble import ProcessExpired, ProcessFuture

from bench.data import Datasets, SharedDataset
from bench.execute.context import JobContext, RunContext, begin_process, trial_folder
from bench.execute.events import Event, Opened
from bench.execute.fork_server import fork_server, forked, how_it_ended
from bench.execute.jobs import Assignment
from bench.execute.plugins import OPENED
from bench.execute.training import train_here
from bench.train import Outcome, RankLostError, joined, read_outcome
from results import open_store
from routers.errors import BenchError

POLL = 0.2
"""Most seconds between two queries of the ranks."""
GRACE = 5.0
"""Seconds that the other ranks have to end by themselves after one has failed."""


def train_in_ranks(assignment: Assignment, context: JobContext) -> Outcome:
    """Train the trial of a job in `train.ranks` processes; if one fails, end all of them.

    Return and raise what `train_trial` does in the first of them.

    Raises:
        BenchError: a rank died.
    """
    spec, home = assignment.job.planned.spec, context.run.home
    for each in (spec, spec.parent):
        if each is not None:
            context.datasets.get(each.data)
    shared = context.datasets.share(home / "data")
    ours, theirs = fork_server().Pipe()
    begin = forked(train_rank, timeout=None)
    ranks: list[ProcessFuture[None]] = []
    with TemporaryDirectory(prefix="bench-ranks-") as folder, ours:
        meeting = Path(folder, "meeting")
        try:
            for rank in range(spec.train.ranks):
                channel = None if rank else theirs
                ranks.append(begin(rank, meeting, assignment, context.run, shared, channel))
            theirs.close()
            _follow(ranks, ours, context)
        finally:
            for future in ranks:
                future.cancel()
    return read_outcome(trial_folder(home, assignment.job.fingerprint))


def train_rank(
    rank: int,
    meeting: Path,
    assignment: Assignment,
    run: RunContext,
    datasets: Mapping[str, SharedDataset],
    channel: Connection | None,
) -> None:
    """Train as one of the ranks, in a process of its own.

    Args:
        meeting: see `joined`.
        channel: the first rank sends its events there, and stops when it receives something there;
            None for the other ranks.
    """
    # A cluster may send SIGTERM to all processes: the worker alone passes the request to stop on.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    device = begin_process(assignment.log, assignment.device, run.plugin_hashes)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)

    def emit(event: Event) -> None:
        if channel is not None:
            channel.send(event)

    def stop() -> bool:
        return channel is not None and channel.poll()

    number = assignment.job.planned.spec.train.ranks
    with (
        joined(number, rank, meeting, device) as ranks,
        open_store(run.database, create=False) as store,
    ):
        context = JobContext(run, store, Datasets(datasets), device, emit, stop)
        train_here(assignment, context, ranks)
    if OPENED:
        emit(Opened(tuple(OPENED)))


def _follow(ranks: Sequence[ProcessFuture[None]], channel: Connection, context: JobContext) -> None:
    """Pass on what the first rank sends until all have ended; raise the error of a failed one."""
    talking, asked, end = True, False, float("inf")
    while not all(rank.done() for rank in ranks) and time.monotonic() < end:
        if context.stop() and not asked:
            asked = True
            with suppress(OSError):  # it has ended
                channel.send("stop")
        if talking:
            talking = _pass_on(channel, context, time.monotonic() + POLL)
        else:
            futures.wait(ranks, timeout=POLL)
        if end == float("inf") and any(rank.done() and rank.exception() for rank in ranks):
            end = time.monotonic() + GRACE
    if talking:
        _pass_on(channel, context, float("inf"))
    errors = [_error(number, rank) for number, rank in enumerate(ranks) if rank.done()]
    # A rank that lost another one is not the cause.
    known = sorted(filter(None, errors), key=lambda error: isinstance(error, RankLostError))
    if known:
        raise known[0]


def _pass_on(channel: Connection, context: JobContext, end: float) -> bool:
    """Emit what has arrived or arrives soon; return False if nothing more will.

    Args:
        end: the time of `time.monotonic` after which no more is read, however much there is.
    """
    try:
        while channel.poll(POLL):
            context.emit(channel.recv())
            if time.monotonic() > end:
                break
    except (EOFError, OSError):
        return False
    return True


def _error(number: int, rank: ProcessFuture[None]) -> BaseException | None:
    error = rank.exception()
    if isinstance(error, ProcessExpired):
        return BenchError(f"rank {number} of the training {how_it_ended(error)}")
    return error
