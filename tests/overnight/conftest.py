"""Whole runs in their own processes that get disturbed, and what they leave behind."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sqlalchemy import inspect, text

from bench.cli import main
from bench.config.presets import load_preset
from results import Store, open_store
from results.frames import metrics_frame, trials_frame
from results.store.leases import alive

ROOT = Path(__file__).parents[2]
TROUBLES = [
    *("raises", "exits", "leaves", "crashes", "crashes_early", "hangs", "too_large"),
    "ends_its_process",
    *("slow", "crawls"),
]
TIMES = ("seconds", "started_at", "finished_at", "at", "machine", "attempt", "measurement")


@dataclass(frozen=True)
class Night:
    """A folder with a preset and a home, and the command that runs it."""

    folder: Path
    plugin: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    url: str | None = None
    """The URL of the database, if it is not a file in the home."""

    @property
    def home(self) -> Path:
        return self.folder / "runs"

    @property
    def database(self) -> Path | str:
        return self.url or self.home / "bench.db"

    @property
    def output(self) -> str:
        """Return what the processes started so far have printed."""
        return (self.folder / "output.txt").read_text()

    def asked(self, *more: str) -> list[str]:
        asked = ["run", "--preset", "night.yaml", "--plugin", str(self.plugin), "--no-report"]
        return [*asked, "--home", "runs", *(("--db", self.url) if self.url else ()), *more]

    def command(self, *more: str) -> list[str]:
        return [sys.executable, str(ROOT / "bench.py"), *self.asked(*more)]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the command in its own process and session."""
        with (self.folder / "output.txt").open("a") as output:
            process = subprocess.Popen(
                self.command(*more),
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test left running: the timings of other tests would wait for it."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, *more: str, status: int = 0) -> str:
        """Run the command to its end in this process, with its own workers; return its output."""
        printed = io.StringIO()
        with (
            chdir(self.folder),
            redirect_stdout(printed),
            redirect_stderr(printed),
            pytest.raises(SystemExit) as exited,
        ):
            main(self.asked(*more))
        assert exited.value.code == status, printed.getvalue()
        return printed.getvalue()

    def trouble(self, *routers: str) -> None:
        """Make these routers fail in their own way from now on, and no others."""
        for name in TROUBLES:
            (self.folder / name).unlink(missing_ok=True)
        for name in routers:
            (self.folder / name).touch()

    def attempts(self) -> list[dict[str, Any]]:
        """Return all attempts ever made, in the order in which they began."""
        with open_store(self.database) as store:
            frame = trials_frame(store, history=True).sort_values("attempt")
            return frame[frame["attempt"].notna()].to_dict("records")

    def workers(self) -> list[int]:
        """Return the process ids of the active workers, read from their logs."""
        with open_store(self.database) as store:
            runs = [run for run in store.runs() if alive(run)]
        servers = [c for run in runs for c in psutil.Process(run.pid).children()]
        return [worker.pid for server in servers for worker in server.children()]

    def wait_for(
        self, condition: Callable[[], Any], seconds: float = 60, every: float = 0.02
    ) -> Any:
        """Wait until the condition returns something true, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                result = condition()
            except (sqlite3.Error, psutil.NoSuchProcess, FileNotFoundError):
                result = None
            except Exception as error:  # the database is not there yet
                if type(error).__name__ != "StoreError":
                    raise
                result = None
            if result:
                return result
            time.sleep(every)
        raise AssertionError(f"not within {seconds} s:\n{self.output}")

    def resumable(self) -> list[Path]:
        """Return the checkpoints that trainings could resume from."""
        return list(self.home.glob("trials/*/resume.safetensors"))

    def rows(self) -> dict[str, list[Any]]:
        """Return all that a run leaves in the database, except times and row numbers."""
        with open_store(self.database) as store:
            trials = trials_frame(store, history=True)
            metrics = metrics_frame(store, history=True)
            claims = store.leases()
            tables = _counts(store)
        metrics = metrics[~metrics["metric"].str.contains("seconds")]
        metrics["where"] = metrics["where"].str.replace(r'"seconds": ?[0-9.e-]+', "", regex=True)
        return {
            "claims": claims,
            "trials": _plain(trials),
            "metrics": _plain(metrics),
            "tables": tables,
        }


def _plain(frame: Any) -> list[str]:
    kept = frame.drop(columns=[name for name in TIMES if name in frame])
    return sorted(kept.to_json(orient="records", lines=True).splitlines())


def _counts(store: Store) -> dict[str, int]:
    """Return the number of rows by table, except `runs`, which has one row per command."""
    with store.reading() as session:
        return {
            name: session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in inspect(session.connection()).get_table_names()
            if name != "runs"
        }


@pytest.fixture(scope="session")
def plugin() -> Path:
    """A plugin of routers that fail in various ways."""
    return Path(__file__).with_name("troubles.py")


def make_night(folder: Path, plugin: Path, **changed: Any) -> Night:
    folder.mkdir()
    smoke = load_preset("smoke").model_dump(mode="json", exclude={"name", "suites", "parts"})
    train = {"epochs": 2, "snapshots": 3, "evaluations": 3, "losses": {}}
    preset = {
        **smoke,
        "routers": ["slow", "dense"],
        "seeds": 2,
        "train": {**smoke["train"], **train, **changed.pop("train", {})},
        "suites": {"balance": {}, "accuracy": {}},
        **changed,
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(preset))
    made = Night(folder, plugin)
    made.trouble("slow")
    return made


@pytest.fixture
def new_night(tmp_path: Path, plugin: Path) -> Iterator[Callable[..., Night]]:
    """Make nights: `new_night(routers=[…], seeds=1, train={…})`; default two routers, two seeds."""
    nights: list[Night] = []

    def new(**changed: Any) -> Night:
        nights.append(make_night(tmp_path / f"night{len(nights)}", plugin, **changed))
        return nights[-1]

    yield new
    for night in nights:
        night.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> dict[str, list[Any]]:
    """What the default night leaves in the database if nothing disturbs it."""
    made = make_night(tmp_path_factory.mktemp("undisturbed") / "night", plugin)
    made.run()
    return made.rows()
