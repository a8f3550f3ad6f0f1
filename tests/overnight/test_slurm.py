"""Arrays of a real Slurm on a real PostgreSQL, in which workers and the server are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import yaml

from results import open_store
from results.store.leases import alive
from tests.overnight.conftest import Night
from tests.overnight.slurm import running_slurm, why_no_slurm
from tests.results.conftest import as_server_user, postgres, postgres_binaries  # noqa: F401

pytestmark = pytest.mark.slow

Started = Callable[..., Night]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    if reason := why_no_slurm():
        pytest.skip(reason)
    with running_slurm() as folder:
        yield folder


@pytest.fixture
def cluster_night(
    new_night: Started,
    slurm: Path,
    postgres: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Started:
    """Make nights whose database is PostgreSQL and whose commands find Slurm."""
    import psycopg

    monkeypatch.setenv("SLURM_CONF", str(slurm / "slurm.conf"))

    def new(cluster: dict[str, object], **changed: object) -> Night:
        database = f"bench_{uuid.uuid4().hex}"
        with psycopg.connect(postgres.format(database="postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        night = replace(new_night(**changed), url=postgres.format(database=database))
        (night.folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
        return night

    return new


def submit(night: Night, workers: int) -> subprocess.Popen[str]:
    array = ("--executor", "slurm", "--workers", str(workers), "--cluster", "cluster.yaml")
    return night.start("--save-every", "0", *array)


def tasks(night: Night) -> dict[str, psutil.Process]:
    """Return the process of each active worker's command, by the name of its job."""
    with open_store(str(night.database)) as store:
        processes = [psutil.Process(run.pid) for run in store.runs() if alive(run)]
    named = {}
    for process in processes:
        environment = process.environ()
        number = environment["SLURM_ARRAY_TASK_ID"]
        named[f"{environment['SLURM_ARRAY_JOB_ID']}_{number}"] = process
    return named


def training(night: Night) -> list[str]:
    """Return the jobs that hold a trial now."""
    with open_store(str(night.database)) as store:
        pids = {lease.run.pid for lease in store.leases() if lease.progress.get("step")}
    return [name for name, process in tasks(night).items() if process.pid in pids]


def restart(url: str) -> None:
    """Restart the database server, as for an upgrade, which cuts every connection to it."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    call = [*as_server_user(), f"{postgres_binaries()}/pg_ctl", "-D", f"{folder}/data"]
    call += ["--wait", "-m", "fast", "-l", f"{folder}/log", "restart"]
    subprocess.run(call, check=True, cwd="/", stdout=subprocess.DEVNULL)


def printed(night: Night) -> str:
    """Return what the workers have printed, and what submitit has printed about them."""
    files = sorted(night.home.glob("cluster/night/*_log.*"))
    return "\n".join(file.read_text(errors="replace") for file in files)


def test_lost_workers_and_a_restarted_server_change_no_row(
    cluster_night: Started, new_night: Started
) -> None:
    longer = {"train": {"epochs": 8}}
    night, alone = cluster_night({"time": "30m"}, **longer), new_night(**longer)
    process = submit(night, 3)
    night.wait_for(lambda: len(training(night)) >= 2, 240)
    cancelled, killed, *_ = training(night)
    subprocess.run(["scancel", cancelled], check=True)
    command = tasks(night)[killed]
    os.kill(command.ppid(), signal.SIGKILL)
    night.wait_for(lambda: not {cancelled, killed} & tasks(night).keys())
    night.wait_for(lambda: training(night), 120)
    assert night.url is not None
    restart(night.url)
    assert process.wait(timeout=400) == 0, night.output + printed(night)
    assert "CANCELLED" in printed(night)
    assert "4 of 4 trials done" in night.output
    alone.run()
    assert night.rows() == alone.rows()


# By hand: when within a minute Slurm sends the signal is chance, so it takes 2 to 7 minutes.
@pytest.mark.campaign
def test_a_worker_at_its_time_limit_saves_and_is_requeued(
    cluster_night: Started, new_night: Started
) -> None:
    longer = {"routers": ["crawls"], "seeds": 1, "train": {"epochs": 10}}
    # Slurm may send the signal up to a minute early: of a single minute, each time before a step.
    night = cluster_night({"time": "2m", "save_seconds": 20}, **longer)
    alone = new_night(**longer)
    # However fast the machine, it is still training when its time is up.
    night.trouble("crawls")
    process = submit(night, 1)
    night.wait_for(lambda: "TrainingInterrupted: stopped after step" in printed(night), 400, 0.2)
    night.trouble()
    assert process.wait(timeout=400) == 0, night.output + printed(night)
    assert "this job is timed-out" in printed(night)
    alone.run()
    assert night.rows() == alone.rows()


@pytest.mark.campaign
def test_a_preempted_worker_is_requeued_and_stop_ends_the_array(cluster_night: Started) -> None:
    night = cluster_night({"time": "30m"}, train={"epochs": 400})
    process = submit(night, 2)
    night.wait_for(lambda: len(training(night)) == 2, 240)
    first, before = training(night)[0], tasks(night)
    subprocess.run(["scancel", "--batch", "--signal=USR2", first], check=True)
    night.wait_for(lambda: tasks(night).get(first, before[first]) != before[first], 120)
    assert "this job is preempted" in printed(night)
    night.wait_for(lambda: len(training(night)) == 2, 120)

    stop = [*night.command()[:2], "stop", "night", "--home", "runs", "--db", str(night.url)]
    done = subprocess.run(stop, cwd=night.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "asked 2 workers to save and stop" in done.stdout
    assert done.stdout.count("resume with:") == 1
    assert not tasks(night)
    assert {row["status"] for row in night.attempts()} == {"interrupted"}
    assert process.wait(timeout=60) == 1
    assert "stopped early: no worker finished" in night.output
