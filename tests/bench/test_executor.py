"""A custom executor does whole runs: the job loop needs nothing beyond its interface."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag

import pytest
import torch

from bench.config.presets import load_preset
from bench.config.schema import TrialSpec
from bench.data.registry import Datasets
from bench.execute.context import JobContext, RunContext, RunOptions
from bench.execute.events import Event, OnEvent, Progress, RunSummary
from bench.execute.executor import Executor
from bench.execute.failures import Check, rehearse
from bench.execute.jobs import Assignment, Result, WorkerFailure
from bench.execute.runner import Runner, run_plan
from bench.execute.worker import do_job
from bench.plan.plan import Plan, make_plan, make_request
from results import Store, open_store
from results.frames import trials_frame

CPU = torch.device("cpu")


class ThreadExecutor:
    """An executor whose worker is a thread of this process."""

    def __init__(self, context: RunContext, store: Store, datasets: Datasets) -> None:
        self.slots: tuple[str, ...] = ("cpu",)
        self._context, self._store, self._datasets = context, store, datasets
        self._pool = futures.ThreadPoolExecutor(1)
        self._stop = Flag()

    def preflight(self, specs: Sequence[TrialSpec]) -> Iterable[Check]:
        return [partial(rehearse, spec, self._datasets, CPU) for spec in specs]

    def start(self, slot: int, assignment: Assignment, on_event: OnEvent) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._on_event = on_event
        context = JobContext(
            *(self._context, self._store, self._datasets, CPU, self._events.put, self._stop.is_set)
        )
        self._job = self._pool.submit(do_job, assignment, context)

    def wait(self, seconds: float) -> list[tuple[int, Result | WorkerFailure]]:
        done, _ = futures.wait([self._job], timeout=min(seconds, 0.01))
        while not self._events.empty():
            self._on_event(self._events.get())
        return [(0, self._job.result())] if done else []

    def request_stop(self, slot: int) -> None:
        self._stop.set()

    def request_stop_all(self) -> None:
        self._stop.set()

    def kill(self) -> None:
        self._stop.set()


@pytest.fixture
def plan() -> Plan:
    settings = {"train.epochs": 3}
    request = make_request(
        load_preset("smoke"), routers=["soft_moe", "dense"], suites=["accuracy"], settings=settings
    )
    return make_plan(request, Datasets())


def test_a_custom_executor_does_a_run_stops_when_asked_and_resumes(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_thread(self: Runner, stop: object) -> Executor:
        return ThreadExecutor(self.context, self._store, self._datasets)

    monkeypatch.setattr(Runner, "_executor", in_thread)

    asked: list[Event] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and not asked:
            asked.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    def do() -> RunSummary:
        return run_plan(plan, store, tmp_path, Datasets(), interrupt, RunOptions())

    with open_store(tmp_path / "bench.db") as store:
        assert do().left == "Ctrl-C"
        assert "interrupted" in set(trials_frame(store, "smoke")["status"])
        assert do().left is None
        assert set(trials_frame(store, "smoke")["status"]) == {"done"}
