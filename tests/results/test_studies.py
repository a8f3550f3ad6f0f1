"""Studies as pandas frames: found where the commands look, and unchanged by reading."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.live_page import LivePage
from results import Metric, StoreError, load_study, open_store


def make(file: Path, study: str = "tiny") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_store(file) as store:
        store.study(study, {})
    return file


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, without a home set in the shell."""
    monkeypatch.delenv("BENCH_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_read_while_a_run_has_the_database_open(
    filler, target: str, description: Callable[..., dict[str, object]]
) -> None:
    attempt = filler.trial(description("soft_moe", seed=3))
    filler.store.record_measurement(
        "accuracy",
        code_id=filler.code,
        machine_id=filler.machine,
        attempt_id=attempt,
        options={},
        source_hash="h1",
        metrics=[Metric("top1", 0.75, split="test")],
    )
    study = load_study("tiny", db=target)
    (row,) = study.metrics.itertuples()
    assert (row.router, row.seed, row.suite, row.metric) == ("soft_moe", 3, "accuracy", "top1")
    assert (row.value, row.split) == (0.75, "test")
    assert {"condition", "layer", "step"} <= set(study.metrics)
    assert list(study.trials.status) == list(study.measurements.status) == ["done"]


def test_the_database_is_found_where_the_commands_look(work: Path, monkeypatch) -> None:
    make(work / "runs" / "bench.db", "in_runs")
    make(work / "other" / "bench.db", "in_other")
    make(work / "mine.db", "in_mine")
    assert load_study("in_runs").name == "in_runs"
    monkeypatch.setenv("BENCH_HOME", "other")
    assert load_study("in_other").name == "in_other"
    assert load_study("in_runs", home="runs").name == "in_runs"
    assert load_study("in_mine", home="runs", db="mine.db").name == "in_mine"
    assert load_study("in_mine", db=f"sqlite:///{work}/mine.db").name == "in_mine"
    monkeypatch.setenv("HOME", str(work))
    assert load_study("in_mine", db="~/mine.db").name == "in_mine"
    assert load_study("in_other", home=Path("~/other")).name == "in_other"


def test_a_missing_database_or_study_is_named_with_the_nearest(work: Path) -> None:
    make(work / "runs" / "bench.db", "night")
    with pytest.raises(StoreError, match=r"no study 'nite' in .*; did you mean 'night'\?"):
        load_study("nite")
    with pytest.raises(StoreError, match=r"no database .*run/bench\.db.*runs/bench\.db'\?"):
        load_study("night", home="run")
    with pytest.raises(StoreError, match=r"no database .*runs/bnch\.db.*runs/bench\.db'\?"):
        load_study("night", db="runs/bnch.db")
    assert [path.name for path in work.iterdir()] == ["runs"]


def test_a_database_opened_read_only_refuses_writes(target: str) -> None:
    with open_store(target) as store:
        store.study("tiny", {})
    with open_store(target, create=False, read_only=True) as store:
        assert [study.name for study in store.studies()] == ["tiny"]
        with pytest.raises(StoreError, match=r"cannot write to .*read.?only"):
            store.study("mine", {})


@pytest.mark.parametrize("left", ["nothing", "the log of a run that died"])
def test_reading_creates_no_files_beside_a_database(tmp_path: Path, left: str) -> None:
    file = make(tmp_path / "bench.db", "one")
    if left != "nothing":
        live = make(tmp_path / "live" / "bench.db", "one")
        with open_store(live) as store:
            store.study("two", {})
            for ending in ("", "-wal", "-shm"):
                shutil.copyfile(f"{live}{ending}", f"{file}{ending}")
    before = {each.name: each.read_bytes() for each in tmp_path.glob("bench.db*")}
    times = {each.name: each.stat().st_mtime_ns for each in tmp_path.glob("bench.db*")}
    with open_store(file, create=False, read_only=True) as store:
        names = [study.name for study in store.studies()]
    assert names == (["one"] if left == "nothing" else ["one", "two"])
    after = {each.name: each.read_bytes() for each in tmp_path.glob("bench.db*")}
    assert after.keys() == before.keys()
    for name in before.keys() - {"bench.db-shm"}:  # where readers register themselves
        assert after[name] == before[name]
        assert (tmp_path / name).stat().st_mtime_ns == times[name]


def test_a_live_page_reads_databases_of_each_kind(
    filler, target: str, description: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    filler.trial(description("soft_moe", seed=3))
    page = LivePage(target, "tiny", tmp_path)
    page._draw_again = float("inf")
    page.refresh()
    assert page.state()["line"].startswith("not running: 1 of 1 trial done, last result ")
    filler.trial(description("soft_moe", seed=4))
    page.refresh()
    assert "2 of 2 trials done" in page.state()["line"]
