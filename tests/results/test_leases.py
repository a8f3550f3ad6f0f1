"""Leases: one run per trial, dead runs give way, and interrupted attempts continue."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text, update

from results import Run, Store, StoreError, Subject, open_store
from results.frames import trials_frame
from results.models import AttemptRow, RunRow
from results.store import write
from results.store.leases import STALE_SECONDS, alive, this_host, this_process

HERE = Run(*this_process(), command="run --preset tiny", jobs=2)
ELSEWHERE = replace(HERE, host="node2 of another cluster")


@pytest.fixture
def other_process() -> Iterator[psutil.Process]:
    """A process that lives until the test ends or kills it."""
    child = subprocess.Popen(["sleep", "600"])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


@pytest.fixture
def study(store: Store) -> int:
    return store.study("tiny", {})


def of(process: psutil.Process) -> Run:
    return Run(this_host(), process.pid, process.create_time(), "run", jobs=1)


class ClockThatIsOff(datetime):
    """The clock of a host that is this many hours ahead."""

    hours = 0

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=cls.hours)


def silent(store: Store, run_id: int, seconds: float) -> None:
    """Set a run's last heartbeat to that long ago."""
    with store.writing() as session:
        at = datetime.now(UTC) - timedelta(seconds=seconds)
        session.execute(update(RunRow).filter_by(id=run_id).values(heartbeat_at=at))


def test_a_run_is_stored_as_given(store: Store, study: int) -> None:
    before = datetime.now(UTC)
    run = store.start_run(study, HERE)
    (record,) = store.runs("tiny")
    assert (record.id, record.study) == (run, "tiny")
    fields = {name: getattr(record, name) for name in Run.__dataclass_fields__}
    assert Run(**fields) == HERE
    assert before <= record.started_at == record.heartbeat_at
    assert record.finished_at is None
    assert alive(record)
    store.finish_run(run)
    second = store.start_run(store.study("other", {}), HERE)
    assert [record.id for record in store.runs()] == [run, second]
    assert [record.id for record in store.runs("other")] == [second]
    (record,) = store.runs("tiny")
    assert record.finished_at is not None
    assert not alive(record)


def test_a_local_run_is_alive_as_long_as_its_process(
    store: Store, study: int, other_process
) -> None:
    run = store.start_run(study, of(other_process))
    reused = store.start_run(
        study, replace(of(other_process), process_started=other_process.create_time() - 60)
    )
    silent(store, run, 10 * STALE_SECONDS)
    lives = {record.id: alive(record) for record in store.runs()}
    assert lives == {run: True, reused: False}
    other_process.kill()
    while other_process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not any(alive(record) for record in store.runs())
    other_process.wait()
    assert not any(alive(record) for record in store.runs())


def test_a_remote_run_is_alive_as_long_as_it_sends_heartbeats(store: Store, study: int) -> None:
    run = store.start_run(study, ELSEWHERE)
    assert alive(store.runs()[0])
    silent(store, run, STALE_SECONDS + 1)
    assert not alive(store.runs()[0])
    store.heartbeat(run, {})
    assert alive(store.runs()[0])


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_run_on_a_host_with_a_wrong_clock_is_neither_dead_nor_immortal(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    if store.engine.dialect.name != "postgresql":
        pytest.skip("those who share a SQLite file share a clock")
    trial = store.trials([Subject("f1", {"router": {"name": "soft_moe"}})])[0]
    study = store.study("tiny", {})
    mine = store.start_run(study, HERE)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(write, "datetime", ClockThatIsOff)
        elsewhere.setattr(ClockThatIsOff, "hours", hours)
        run = store.start_run(study, ELSEWHERE)
        lease = store.lease(run, trial_id=trial)
        assert lease is not None
        store.heartbeat(run, {lease: {"doing": "training"}})
    (held,) = store.leases()
    assert abs(held.run.silent_seconds) < STALE_SECONDS / 2
    assert alive(held.run)
    assert store.lease(mine, trial_id=trial) is None
    ago = f"heartbeat_at - interval '{STALE_SECONDS + 1} seconds'"
    with store.writing() as session:
        session.execute(text(f"UPDATE runs SET heartbeat_at = {ago} WHERE id = {run}"))
    assert not alive(store.leases()[0].run)
    with monkeypatch.context() as elsewhere:  # the asking host's clock may be off as well
        elsewhere.setattr(write, "datetime", ClockThatIsOff)
        elsewhere.setattr(ClockThatIsOff, "hours", hours)
        assert {run.id: alive(run) for run in store.runs()} == {mine: True, run: False}
        assert store.lease(mine, trial_id=trial) is not None


def test_a_run_holds_a_trial_until_it_releases_it(store: Store, study: int, other_process) -> None:
    trial, layer = store.trials([Subject("f1", {})])[0], store.layers([Subject("l1", {})])[0]
    mine, other = store.start_run(study, HERE), store.start_run(study, of(other_process))
    lease = store.lease(mine, trial_id=trial)
    assert lease is not None
    assert store.lease(mine, trial_id=trial) == lease
    assert store.lease(other, trial_id=trial) is None
    assert store.lease(other, layer_id=layer) is not None
    store.release(lease)
    taken = store.lease(other, trial_id=trial)
    assert taken is not None
    assert taken > lease
    store.release(lease)
    assert store.lease(mine, trial_id=trial) is None


def test_only_what_exists_can_be_leased(store: Store, study: int) -> None:
    run = store.start_run(study, HERE)
    with pytest.raises(StoreError, match="there is no trial 7 to lease"):
        store.lease(run, trial_id=7)
    with pytest.raises(StoreError, match="there is no layer 7 to lease"):
        store.lease(run, layer_id=7)


def test_the_lease_of_a_dead_run_is_taken_over(store: Store, study: int) -> None:
    trial = store.trials([Subject("f1", {"router": {"name": "soft_moe"}})])[0]
    dead, mine = store.start_run(study, ELSEWHERE), store.start_run(study, HERE)
    lost = store.lease(dead, trial_id=trial)
    assert store.lease(mine, trial_id=trial) is None
    silent(store, dead, STALE_SECONDS + 1)
    taken = store.lease(mine, trial_id=trial)
    assert taken is not None
    assert lost is not None
    # It was not dead after all and comes back: the lost lease is no longer its own.
    store.heartbeat(dead, {lost: {"doing": "training"}})
    store.release(lost)
    (lease,) = store.leases()
    assert (lease.id, lease.run.id, lease.progress) == (taken, mine, {})
    store.finish_run(dead)
    assert [lease.id for lease in store.leases()] == [taken]


def test_a_starting_run_removes_the_leases_of_dead_ones(store: Store, study: int) -> None:
    dead, other = store.start_run(study, ELSEWHERE), store.start_run(study, ELSEWHERE)
    store.lease(dead, trial_id=store.trials([Subject("f1", {"router": {"name": "a"}})])[0])
    kept = store.lease(other, trial_id=store.trials([Subject("f2", {"router": {"name": "a"}})])[0])
    silent(store, dead, STALE_SECONDS + 1)
    store.start_run(study, HERE)
    assert [lease.id for lease in store.leases()] == [kept]


def test_leases_show_current_work_and_its_progress(store: Store, description) -> None:
    trial = store.trials([Subject("f1", description("soft_moe", seed=3))])[0]
    bare = {name: description()[name] for name in ("router", "experts", "model", "data")}
    layer = store.layers([Subject("l1", bare)])[0]
    run = store.start_run(store.study("tiny", {}), HERE)
    first, second = store.lease(run, trial_id=trial), store.lease(run, layer_id=layer)
    other = store.start_run(store.study("other", {}), HERE)
    store.lease(other, trial_id=store.trials([Subject("f2", description())])[0])
    assert first is not None
    progress = {"doing": "training", "step": 3, "steps": 10, "loss": 0.5, "accuracy": None}
    store.heartbeat(run, {first: progress})
    trial_lease, bare_layer = store.leases("tiny")
    assert (trial_lease.id, trial_lease.fingerprint, trial_lease.router, trial_lease.seed) == (
        first,
        "f1",
        "soft_moe",
        3,
    )
    assert (trial_lease.trial, trial_lease.progress, trial_lease.run.id) == (True, progress, run)
    assert trial_lease.run.heartbeat_at > trial_lease.run.started_at
    assert (bare_layer.id, bare_layer.fingerprint, bare_layer.seed) == (second, "l1", None)
    assert (bare_layer.trial, bare_layer.progress) == (False, {})
    assert [lease.fingerprint for lease in store.leases()] == ["f1", "l1", "f2"]
    store.finish_run(run)
    assert [lease.fingerprint for lease in store.leases()] == ["f2"]


def test_an_interrupted_attempt_continues_in_its_own_row(filler) -> None:
    store = filler.store
    trial = store.trials([Subject("f1", {})])[0]
    first = store.begin_attempt(trial, filler.machine, filler.code, "logs/1.txt")
    with store.writing() as session:  # older code wrote such notes
        session.get_one(AttemptRow, first).note = "a note"
    begun = store.last_attempt("f1")
    store.finish_attempt(first, "interrupted", error="Ctrl-C", seconds=1.5, log_tail="…")
    stopped = store.last_attempt("f1")
    assert begun is not None
    assert stopped is not None
    assert (stopped.status, stopped.error, stopped.log_tail) == ("interrupted", "Ctrl-C", "…")
    again = store.begin_attempt(trial, filler.machine, filler.code, "logs/2.txt")
    assert again == first
    assert store.last_attempt("f1") == replace(begun, seconds=1.5)
    with store.reading() as session:
        row = session.get_one(AttemptRow, first)
        assert (row.log, row.note) == ("logs/2.txt", None)
    # A killed attempt could not record its end: it is still `running`, and continues all the same.
    assert store.begin_attempt(trial, filler.machine, filler.code) == first
    store.finish_attempt(first, "interrupted")
    store.finish_attempt(first, "failed", error="boom")
    assert store.begin_attempt(trial, filler.machine, filler.code) != first


def test_a_running_attempt_without_a_living_run_counts_as_interrupted(filler, description) -> None:
    store = filler.store
    study = store.study("tiny", {})
    trials = store.trials([])
    for number in range(3):
        trials.append(store.trials([Subject(f"f{number}", description(seed=number))])[0])
        store.begin_attempt(trials[-1], filler.machine, filler.code)
    store.add_trial_to_study(study, *trials)
    store.lease(store.start_run(study, HERE), trial_id=trials[0])
    gone = store.start_run(study, ELSEWHERE)
    store.lease(gone, trial_id=trials[1])
    silent(store, gone, STALE_SECONDS + 1)
    shown = trials_frame(store, "tiny")
    assert shown.status.tolist() == ["running", "interrupted", "interrupted"]


LEASER = """
import sys, time
from pathlib import Path
from results import Run, open_store
from results.store.leases import this_process

target, go = sys.argv[1], Path(sys.argv[2])
with open_store(target) as store:
    run = store.start_run(1, Run(*this_process(), "run", 1))
    while not go.exists():
        time.sleep(0.001)
    for trial in range(1, 31):
        if store.lease(run, trial_id=trial) is not None:
            print(trial, flush=True)
    print("through", flush=True)
    sys.stdin.read()  # it lives until all are through
"""


@pytest.mark.slow
def test_each_trial_goes_to_exactly_one_of_four_processes(
    target: str, tmp_path: Path, description
) -> None:
    with open_store(target) as store:
        study = store.study("tiny", {})
        trials = [store.trials([Subject(f"f{number}", description())])[0] for number in range(30)]
        gone = store.start_run(study, replace(HERE, process_started=0.0))
        for trial in trials[::2]:  # they compete for what a dead run left, too
            store.lease(gone, trial_id=trial)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", LEASER, target, str(tmp_path / "go")]
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    try:
        (tmp_path / "go").touch()
        outputs = [run.stdout for run in runs if run.stdout is not None]
        taken = [int(line) for output in outputs for line in iter(output.readline, "through\n")]
    finally:
        for run in runs:
            run.communicate(timeout=60)
    assert sorted(taken) == trials
    with open_store(target) as store:
        assert len(store.leases()) == 30
