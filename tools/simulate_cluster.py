"""Simulate many workers on one PostgreSQL server: transaction rate, latency and saturation.

    python tools/simulate_cluster.py --server postgresql://bench@localhost/postgres --seconds 30,5

Workers do with the database exactly what `run` does: leases, heartbeats, attempts, results. Only
the training is replaced by a pause. The table is in docs/overnight.md. Server and workers share
the machine; the server must accept more connections than there are workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sqlalchemy import event, text

from bench.config import load_preset
from bench.data import Datasets
from bench.environment import code_version, machine
from bench.execute.context import Interrupts, RunContext, RunOptions
from bench.execute.events import OnEvent
from bench.execute.jobs import Assignment, Job, JobStore, Result, WorkerFailure, jobs_of
from bench.execute.loop import HEARTBEAT, JobLoop
from bench.execute.runner import PlannedJobs
from bench.plan import Plan, Reuse, make_plan, make_request, record_plan
from results import Metric, Store, open_store
from results.connect import connect, resolve
from results.store.leases import this_process
from results.store.records import AttemptStatus, Run

SUITES = 4
"""Number of measurements per trial."""
METRICS = 50
"""Number of values per measurement."""


class PausingExecutor:
    """An executor with one slot that pauses instead of training, and writes results as usual."""

    slots: tuple[str, ...] = ("cpu",)

    def __init__(self, store: Store, context: RunContext, seconds: float, seed: int) -> None:
        self._store, self._context, self._seconds = store, context, seconds
        self._draw = random.Random(seed)
        self._assignment: Assignment | None = None
        self._end = 0.0

    def preflight(self, specs: object) -> Iterable[Any]:
        return ()

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        self._assignment = assignment
        self._end = time.monotonic() + self._seconds * self._draw.uniform(0.5, 1.5)

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        if self._assignment is None:
            return []
        # Longer than the loop asks for, since there are no workers to listen to: 256 threads that
        # wake up twice a second would keep the cores busy.
        time.sleep(max(min(self._end - time.monotonic(), max(seconds, HEARTBEAT)), 0))
        if time.monotonic() < self._end:
            return []
        attempt, self._assignment = self._assignment.attempt, None
        assert attempt is not None
        self._store.finish_attempt(attempt, AttemptStatus.DONE, seconds=self._seconds)
        here = (self._context.machine_id, self._context.code_id)
        for suite in range(SUITES):
            metrics = [Metric(f"metric {number}", self._draw.random()) for number in range(METRICS)]
            name = f"suite {suite}"
            self._store.record_measurement(
                name, {}, "", *here, attempt_id=attempt, metrics=metrics, seconds=1.0
            )
        return [(0, Result(AttemptStatus.DONE))]

    def request_stop(self, slot: int) -> None:
        self._end = 0.0

    def request_stop_all(self) -> None:
        self._end = 0.0

    kill = request_stop_all


@dataclass(frozen=True)
class Case:
    """A simulated setup: the number of workers and trials, and a training's mean seconds."""

    workers: int
    trials: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The measurements of one case.

    Attributes:
        transactions: number of transactions that the server committed.
        waits: duration of each of the workers' transactions, in seconds.
        server: CPU seconds that the server used; None if it runs on another machine.
        busy: the share of their time that the workers spent training.
    """

    case: Case
    wall: float
    transactions: int
    waits: np.ndarray
    server: float | None
    busy: float

    def row(self) -> str:
        """Return the outcome as a row of the table."""
        p50, p95, p99 = 1e3 * np.percentile(self.waits, (50, 95, 99))
        case, cores = self.case, "" if self.server is None else f"{self.server / self.wall:.2f}"
        return (
            f"| {case.workers} | {case.seconds:g} | {case.trials:,} | {self.wall:.0f} | "
            f"{case.trials / self.wall:.1f} | {self.transactions / self.wall:.0f} | "
            f"{p50:.0f} / {p95:.0f} / {p99:.0f} | {cores} | {100 * self.busy:.0f} % |"
        )


HEAD = """\
| workers | seconds a trial | trials | wall clock, s | trials a second | transactions a second \
| transaction, ms (p50 / p95 / p99) | server, cores | time spent training |
|---|---|---|---|---|---|---|---|---|"""


def plan_of(case: Case) -> Plan:
    """Return a plan of as many trials as the case has, with no measurements."""
    preset = load_preset("smoke")
    asked = make_request(preset, routers=["dense"], seeds=case.trials, suites=["accuracy"])
    plan = make_plan(asked, Datasets())
    return replace(plan, trials=tuple(replace(each, suites=()) for each in plan.trials), layers=())


def work(url: str, case: Case, members: Sequence[int], ready: Any, sent: Any) -> None:
    """Run one process's share of the workers, each a thread with its own connection.

    What a worker would read when it starts is read once per process, before any of them begins.
    """
    plan, home = plan_of(case), Path(tempfile.mkdtemp())
    waits: list[float] = []
    with open_store(url) as store:
        machine_id, code_id = store.machine(machine()), store.code_version(code_version())
        rows = store.rows(plan.request.study)
        jobs = tuple(
            jobs_of(plan, Reuse(store, home, machine_id, explain=False).trials(plan.trials), ())
        )
    context = RunContext(url, home, RunOptions(prepared=True), {}, machine_id, code_id)

    def one(number: int) -> None:
        with open_store(url) as store:
            _time_transactions(store, waits)
            _run_worker(store, plan, jobs, context, rows, case.seconds, number)

    threads = [threading.Thread(target=one, args=(number,)) for number in members]
    ready.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent.put(waits)


def _run_worker(
    store: Store,
    plan: Plan,
    jobs: tuple[Job, ...],
    context: RunContext,
    rows: dict[str, int],
    seconds: float,
    number: int,
) -> None:
    source = PlannedJobs(plan, jobs, store, lambda _: None, prepared=True)
    _, pid, started = this_process()
    process = Run(f"node {number}", pid, started, command="", jobs=1)
    run_id = store.start_run(store.find_study(source.study).id, process)
    reuse = Reuse(store, context.home, context.machine_id, explain=False)
    executor = PausingExecutor(store, context, seconds, number)
    job_store = JobStore(store, context, run_id, reuse, rows)
    JobLoop(jobs, source, job_store, executor, lambda _: None, Interrupts()).run()
    store.finish_run(run_id)


def _time_transactions(store: Store, waits: list[float]) -> None:
    began: dict[Any, float] = {}

    def begin(connection: Any) -> None:
        began[connection] = time.perf_counter()

    def end(connection: Any) -> None:
        waits.append(time.perf_counter() - began.pop(connection))

    event.listen(store.engine, "begin", begin)
    event.listen(store.engine, "commit", end)
    event.listen(store.engine, "rollback", end)


def simulate(url: str, case: Case, processes: int) -> Outcome:
    """Simulate a case in an empty database."""
    with open_store(url) as store:
        record_plan(plan_of(case), store)
        context = multiprocessing.get_context("spawn")
        ready, sent = context.Barrier(processes + 1), context.Queue()
        shares = [range(case.workers)[number::processes] for number in range(processes)]
        started = [context.Process(target=work, args=(url, case, s, ready, sent)) for s in shares]
        for process in started:
            process.start()
        ready.wait()
        before, computed, began = _committed(store), _computed(store), time.monotonic()
        waits = np.concatenate([sent.get() for _ in started])
        wall = time.monotonic() - began
        for process in started:
            process.join()
        committed, after = _committed(store) - before, _computed(store)
    server = None if computed is None or after is None else after - computed
    busy = case.trials * case.seconds / (case.workers * wall)
    return Outcome(case, wall, committed, waits, server, busy)


def _committed(store: Store) -> int:
    """Return the number of transactions that the server has committed in this database."""
    asked = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    with store.engine.connect() as connection:
        return int(connection.scalar(text(asked)) or 0)


def _computed(store: Store) -> float | None:
    """Return the CPU seconds that the server has used; None if it is on another machine."""
    host = store.engine.url.host or str(store.engine.url.query.get("host", ""))
    if host not in ("localhost", "127.0.0.1") and not host.startswith("/"):
        return None
    with store.engine.connect() as connection:
        backend = int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    server = psutil.Process(backend).parent()
    assert server is not None
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    return total + sum(sum(child.cpu_times()[:2]) for child in server.children())


@contextmanager
def own_database(server: str) -> Iterator[str]:
    """Yield the URL of an empty database on a server; the database is dropped at the end."""
    name = f"simulation_{uuid.uuid4().hex[:8]}"
    engine = connect(resolve(server)).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield resolve(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def main() -> None:
    """Run the requested cases and print their table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--server", required=True, help="URL of a database on the server; others are made beside it"
    )
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seconds", default="30", help="mean length of a training: 30,10,5")
    parser.add_argument("--processes", type=int, default=4, help="processes that run the workers")
    asked = parser.parse_args()
    print(HEAD, flush=True)
    for seconds in map(float, asked.seconds.split(",")):
        case = Case(asked.workers, asked.trials, seconds)
        with own_database(asked.server) as url:
            print(simulate(url, case, asked.processes).row(), flush=True)


if __name__ == "__main__":
    main()
