"""Whole runs in processes of their own, that are disturbed, and what they leave behind."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.presets import load_preset
from results import open_store
from results.frames import metrics_frame, trials_frame
from results.liveness import alive

ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""Routers with which something goes wrong, where a file beside this one says what."""
import os
import signal
import time
from pathlib import Path

import torch
from routers import Router, SoftRouting, register_router

HERE = Path(__file__).parent


def trouble(name, images):
    if name == "raise":
        raise ValueError("a mistake of the router's")
    if name == "exit":
        raise SystemExit(0)
    if name == "leave":
        os._exit(0)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        print("about to hang", flush=True)
        while True:
            time.sleep(1)
    if name == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if name == "little_memory" and images > 20:
        raise torch.OutOfMemoryError("CUDA out of memory")


class Soft(Router):
    """One slot an expert."""

    def allocate(self, logits):
        file = HERE / self.name
        if self.training and torch.is_grad_enabled() and file.exists():
            trouble(file.read_text(), len(logits))
        return SoftRouting.from_logits(logits[..., None])


@register_router("troubled", family="soft")
class Troubled(Soft):
    """Does what the file `troubled` says."""


@register_router("slow", family="soft")
class Slow(Soft):
    """Takes its time: 20 ms a step in training."""

    def allocate(self, logits):
        if self.training and torch.is_grad_enabled():
            time.sleep(0.02)
        return super().allocate(logits)
'''
TIMES = ("seconds", "started_at", "finished_at", "at", "machine", "attempt", "measurement")


@dataclass(frozen=True)
class Night:
    """A preset, a plugin and a home, and the command that puts them together."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "runs"

    @property
    def database(self) -> Path:
        return self.home / "bench.db"

    def command(self, *more: str) -> list[str]:
        asked = ["run", "--preset", "night.yaml", "--plugin", "troubles.py", "--no-report"]
        return [sys.executable, str(ROOT / "bench.py"), *asked, "--home", "runs", *more]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """The command, as a session of its own; its output goes to `output.txt`."""
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                self.command(*more),
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *more: str, status: int = 0) -> str:
        """The command to its end; what it printed."""
        done = subprocess.run(
            self.command(*more), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def trouble(self, what: str | None) -> None:
        """What the router `troubled` does in training."""
        file = self.folder / "troubled"
        file.unlink(missing_ok=True)
        if what is not None:
            file.write_text(what)

    def attempts(self) -> list[dict[str, Any]]:
        """All attempts ever made, in the order in which they began."""
        with open_store(self.database) as store:
            frame = trials_frame(store, history=True).sort_values("attempt")
            return frame[frame["attempt"].notna()].to_dict("records")

    def workers(self) -> list[int]:
        """Process ids of the workers at work, as their logs tell."""
        with open_store(self.database) as store:
            runs = [run for run in store.runs() if alive(run)]
        servers = [c for run in runs for c in psutil.Process(run.pid).children()]
        return [worker.pid for server in servers for worker in server.children()]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """What the condition says, as soon as it says something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                found = condition()
            except (sqlite3.Error, psutil.NoSuchProcess, FileNotFoundError):
                found = None
            except Exception as error:  # the database is not there yet
                if type(error).__name__ != "StoreError":
                    raise
                found = None
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s:\n{(self.folder / 'output.txt').read_text()}")

    def resumable(self) -> list[Path]:
        """The checkpoints that trainings could go on from."""
        return list(self.home.glob("trials/*/resume.safetensors"))

    def rows(self) -> dict[str, list[Any]]:
        """All that a run leaves in the database, times and row numbers aside."""
        with open_store(self.database) as store:
            trials = trials_frame(store, history=True)
            metrics = metrics_frame(store, history=True)
            claims = store.claims()
        metrics = metrics[~metrics["metric"].str.contains("seconds")]
        return {
            "claims": claims,
            "trials": _plain(trials),
            "metrics": _plain(metrics),
            "tables": _counts(self.database),
        }


def _plain(frame: Any) -> list[str]:
    kept = frame.drop(columns=[name for name in TIMES if name in frame])
    return sorted(kept.to_json(orient="records", lines=True).splitlines())


def _counts(database: Path) -> dict[str, int]:
    """Rows by table; of `runs` there is one for each command."""
    with sqlite3.connect(database) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in names
            if name != "runs"
        }


@pytest.fixture
def new_night(tmp_path: Path) -> Callable[..., Night]:
    """Makes nights: `new_night("one", routers=[…], seeds=2, epochs=2)`."""

    def make(name: str = "night", **changed: Any) -> Night:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "troubles.py").write_text(PLUGIN)
        smoke = load_preset("smoke").model_dump(mode="json", exclude={"name", "suites", "parts"})
        train = {"epochs": changed.pop("epochs", 1), "snapshots": 3, "evaluations": 3, "losses": {}}
        preset = {
            **smoke,
            "routers": ["slow", "dense"],
            "seeds": 2,
            "train": {**smoke["train"], **train},
            "suites": {"balance": {}, "accuracy": {}},
            **changed,
        }
        (folder / "night.yaml").write_text(yaml.safe_dump(preset))
        return Night(folder)

    return make
