"""Third-party tools open what the bench stores; each test is skipped without its tool."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow

DATASETTE, DASHBOARD = map(shutil.which, ("datasette", "optuna-dashboard"))
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
DOCS = Path(__file__).parent.parent / "docs" / "results.md"
SMALL = ("--preset", "smoke", "--routers", "soft_moe", "--jobs", "0")


@contextmanager
def served(*command: str) -> Iterator[Callable[[str], Any]]:
    """Start a tool on a free port, which replaces PORT; yield a function that asks it for JSON."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = [part.replace("PORT", str(port)) for part in command]
    process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ask(path: str) -> Any:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                    return json.load(answer)
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    process.kill()
                    output = process.communicate()[0].decode()
                    raise AssertionError(f"{' '.join(started)}: {output}") from error
                time.sleep(0.3)

    try:
        yield ask
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def work(in_process, tmp_path_factory) -> Path:
    """A folder whose `runs` contains a study and a tuning, made as a user makes them."""
    folder = tmp_path_factory.mktemp("work")
    in_process(folder, "run", "accuracy", "balance", *SMALL, "--seeds", "2", "--no-report")
    in_process(folder, "tune", *SMALL, "--trials", "2")
    return folder


def documented(start: str) -> str:
    """Return the one line of the docs that begins with this text."""
    (line,) = {line for line in DOCS.read_text("utf-8").splitlines() if line.startswith(start)}
    return line


@pytest.mark.skipif(DATASETTE is None, reason="datasette is not installed (pip install datasette)")
def test_datasette_shows_the_database_and_answers_the_documented_query(work: Path) -> None:
    assert documented("datasette ") == "datasette runs/bench.db"
    text = DOCS.read_text("utf-8")
    query = text.partition("```sql\n")[2].partition("```")[0]
    with served("datasette", str(work / "runs" / "bench.db"), "--port", "PORT") as ask:
        (study,) = ask("/bench/studies.json?_shape=array&name=smoke")
        assert study["name"] == "smoke"
        rows = ask(f"/bench.json?_shape=array&sql={quote(query)}")
    assert [(row["router"], row["runs"]) for row in rows] == [("soft_moe", 2)]
    assert 0 < rows[0]["top1"] < 1


@pytest.mark.skipif(
    DASHBOARD is None, reason="optuna-dashboard is not installed (pip install optuna-dashboard)"
)
def test_optuna_dashboard_shows_the_tuning(work: Path) -> None:
    assert documented("optuna-dashboard ") == "optuna-dashboard sqlite:///runs/tuning.db"
    file = work / "runs" / "tuning.db"
    with closing(sqlite3.connect(file)) as tuning:
        tried = tuning.execute("select count(*) from trials").fetchone()[0]
    with served("optuna-dashboard", f"sqlite:///{file}", "--port", "PORT") as ask:
        (study,) = ask("/api/studies")["study_summaries"]
        shown = ask(f"/api/studies/{study['study_id']}")
    assert "soft_moe" in study["study_name"]
    assert len(shown["trials"]) == tried >= 2


@pytest.mark.skipif(
    not HAS_TENSORBOARD, reason="tensorboard is not installed (pip install tensorboard)"
)
def test_tensorboard_shows_the_curves_in_the_database(work: Path, bench) -> None:
    command = documented("python bench.py db export --tensorboard").split()[2:]
    for _ in range(2):  # the second export replaces the first
        done = bench(work, *command)
        assert done.stdout.startswith("wrote the curves of ")
        assert done.stdout.endswith(f"\n{documented('tensorboard ')}\n")
    from results import load_study

    rows = load_study("smoke", home=work / "runs").metrics
    curve = rows.query("metric == 'val_top1' and seed == 1 and step.notna()").sort_values("step")
    logs = work / documented("tensorboard ").split()[-1]
    tool = (sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", "PORT")
    with served(*tool) as ask:
        name, deadline = "smoke/soft_moe/seed-1", time.monotonic() + 60
        while name not in ask("/data/runs"):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        tags = ask("/data/plugin/scalars/tags")[name]
        points = ask(
            f"/data/plugin/scalars/scalars?run={quote(name)}&tag={quote('accuracy/val_top1/val')}"
        )
    assert "balance/load_cv/val/layer 0" in tags or "balance/load_cv/val" in tags
    assert len(curve) > 1
    assert [step for _, step, _ in points] == list(curve["step"])
    assert [value for _, _, value in points] == pytest.approx(list(curve["value"]), rel=1e-6)


@pytest.mark.skipif(HAS_TENSORBOARD, reason="tensorboard is installed")
def test_without_tensorboard_the_message_names_the_package(work: Path, in_process) -> None:
    done = in_process(work, "db", "export", "--tensorboard", str(work / "logs"), status=2)
    assert "pip install tensorboard" in done.stderr
    assert not (work / "logs").exists()


def test_export_needs_either_a_file_or_a_tensorboard_folder(work: Path, in_process) -> None:
    for arguments in ([], ["a.csv", "--tensorboard", "b"]):
        done = in_process(work, "db", "export", *arguments, status=2)
        assert "name either a FILE or --tensorboard FOLDER" in done.stderr
    assert os.listdir(work) == ["runs"]
