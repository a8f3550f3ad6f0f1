"""Many processes on one database, some of which die: no row is lost and nobody is refused.

`python tests/results/test_concurrency.py` measures how fast four processes write to one file.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, func, select

from results import (
    CodeVersion,
    Machine,
    Metric,
    Store,
    StoreError,
    Subject,
    connect,
    describe,
    open_store,
)
from results.models import (
    AttemptRow,
    LeaseRow,
    MachineRow,
    MeasurementRow,
    MetricRow,
    StudyRow,
    TrialRow,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
WRITER = """
import sys, time
from pathlib import Path
from results import CodeVersion, Machine, Metric, Run, Subject, open_store
from results.store.leases import this_process

target, go, name, rounds = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
while not go.exists():
    time.sleep(0.001)
with open_store(target) as store:
    machine = store.machine(Machine("node1", "Linux", "cpu", 2, 1, 2**30))
    code = store.code_version(CodeVersion(None, False, "3.11", {}))
    study = store.study("tiny", {"by": name})
    run = store.start_run(study, Run(*this_process(), "run", 1))
    for index in range(rounds):
        (trial,) = store.trials([Subject(f"shared{index}", {"seed": index})])
        store.add_trial_to_study(study, trial)
        (own,) = store.trials([Subject(f"{name} {index}", {"seed": index})])
        lease = store.lease(run, trial_id=own)
        store.heartbeat(run, {lease: {"step": index}})
        attempt = store.begin_attempt(own, machine, code)
        metrics = [Metric("x", number) for number in range(20)]
        store.record_measurement("a", {}, "h", machine, code, attempt_id=attempt, metrics=metrics)
        store.finish_attempt(attempt, "done")
        store.release(lease)
        print(attempt, flush=True)
    store.finish_run(run)
"""
TRANSACTIONS = 9
"""Transactions per round of a writer; a round writes 23 rows: a trial, its attempt, 20 metrics."""


def start_writer(target: str, go: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, target, str(go), name, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def count(store: Store, row: type) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(row)) or 0


@pytest.mark.slow
def test_four_writers_create_the_database_together_and_lose_nothing(
    target: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    writers = [start_writer(target, go, str(number), rounds=15) for number in range(4)]
    go.touch()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with open_store(target) as store:
        assert count(store, TrialRow) == 15 + 60
        assert count(store, AttemptRow) == count(store, MeasurementRow) == 60
        assert count(store, MetricRow) == 1200
        assert count(store, StudyRow) == count(store, MachineRow) == 1
        assert count(store, LeaseRow) == 0


@pytest.mark.slow
def test_rows_written_by_a_killed_process_survive(target: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    writer = start_writer(target, go, "killed", rounds=100_000)
    assert writer.stdout is not None
    seen = [int(writer.stdout.readline()) for _ in range(5)]
    writer.kill()
    rest, _ = writer.communicate(timeout=60)
    assert writer.returncode == -signal.SIGKILL
    seen += [int(line) for line in rest.splitlines()]
    with open_store(target) as store, store.reading() as session:
        done = session.scalars(select(AttemptRow.id).filter_by(status="done")).all()
        assert set(seen) <= set(done)
        assert len(done) - len(seen) in (0, 1)


def test_a_writer_waits_for_another(sqlite_store: Store, tmp_path: Path) -> None:
    done: list[float] = []

    def write() -> None:
        with open_store(tmp_path / "bench.db") as other:
            other.study("second", {})
        done.append(time.monotonic())

    waiting = threading.Thread(target=write)
    with sqlite_store.writing() as session:
        empty = select(func.count()).select_from(StudyRow)
        assert session.scalar(empty) == 0
        waiting.start()
        time.sleep(0.3)
        assert not done
        assert session.scalar(empty) == 0
        released = time.monotonic()
    waiting.join(timeout=30)
    assert done
    assert done[0] >= released
    assert [study.name for study in sqlite_store.studies()] == ["second"]


def test_a_reader_does_not_wait_for_writers(store: Store, target: str) -> None:
    store.study("before", {})
    with store.writing() as session, open_store(target) as other:
        session.add(StudyRow(name="now", request={}, created_at=AT, requested_at=AT))
        session.flush()
        assert [study.name for study in other.studies()] == ["before"]
    assert {study.name for study in store.studies()} == {"before", "now"}


def test_a_database_that_stays_locked_is_reported_as_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0)
    monkeypatch.setattr(connect, "ASK_AGAIN", 0)
    with open_store(tmp_path / "bench.db") as one, open_store(tmp_path / "bench.db") as other:
        with one.writing() as session:
            session.scalar(select(func.count()).select_from(StudyRow))
            with pytest.raises(StoreError, match=r"cannot write .*bench.db.*locked"):
                other.study("tiny", {})
        assert other.study("tiny", {}) == 1


def test_a_full_disk_costs_only_what_did_not_fit(sqlite_store: Store) -> None:
    machine = sqlite_store.machine(Machine("node1", "Linux", "cpu", 2, 1, 2**30))
    code = sqlite_store.code_version(CodeVersion(None, False, "3.11", {}))
    layer = sqlite_store.layers([Subject("l", {})])[0]

    @event.listens_for(sqlite_store.engine, "begin")
    def fill(connection):
        connection.exec_driver_sql("PRAGMA max_page_count = 100")

    metrics = [Metric("x", number, where={"text": "y" * 1000}) for number in range(1000)]
    with pytest.raises(StoreError, match=r"cannot write .*full"):
        sqlite_store.record_measurement(
            "a", {}, "h", machine, code, layer_id=layer, metrics=metrics
        )
    assert count(sqlite_store, MeasurementRow) == count(sqlite_store, MetricRow) == 0
    sqlite_store.record_measurement(
        "a", {}, "h", machine, code, layer_id=layer, metrics=metrics[:5]
    )
    assert count(sqlite_store, MetricRow) == 5


def measure(folder: Path, writers: int = 4, rounds: int = 100) -> None:
    """Print how many transactions and rows per second the writers manage together."""
    go = folder / "go"
    running = [start_writer(str(folder / "bench.db"), go, str(n), rounds) for n in range(writers)]
    time.sleep(5)  # all are ready
    start = time.perf_counter()
    go.touch()
    for writer in running:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    seconds = time.perf_counter() - start
    with open_store(folder / "bench.db") as store:
        rows = sum(describe(store).rows.values())
    done = writers * rounds * TRANSACTIONS
    print(f"{writers} writers, {done} transactions, {rows} rows in {seconds:.1f} s:")
    print(f"{done / seconds:.0f} transactions and {rows / seconds:.0f} rows a second")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch))
