"""`run --executor` and `stop`: what they refuse, and whole arrays on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from bench.cli import main
from bench.config import load_preset
from bench.execute import ArrayRecord
from bench.tune import search_results
from results import Run, open_store
from results.frames import trials_frame
from results.store.leases import alive, this_process

ROOT = Path(__file__).parent.parent
SMALL = ("run", "accuracy", "--preset", "smoke", "--routers", "soft_moe,dense", "--seeds", "1")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "3"), "--workers is for an array of workers: add --executor slurm or local"),
        (("--cluster", "c.yaml"), "--cluster is for an array of workers"),
        (("--executor", "local", "--jobs", "0"), "--jobs 0 works in this process"),
        (
            ("--executor", "local", "--devices", "cpu"),
            "--devices cpu names devices of this machine",
        ),
        (("--executor", "slrum"), "slrum"),
        (("--executor", "local", "--workers", "0"), "--workers"),
        (("--executor", "local", "--cluster", "none.yaml"), "none.yaml: cannot read it"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, *SMALL, "--home", str(tmp_path), *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "there is no setting 'partitoin'; did you mean 'partition'?"),
        ("time: soon", "time = 'soon': 'soon' is not a time; write it as 90s, 30m, 2.5h or 1d"),
        ("gpus: -1", "gpus = -1: Input should be greater than or equal to 0"),
        ("gpus: yes", "gpus = True is yes or no"),
        ("[gpu]", "is not a mapping such as `partition: gpu`"),
        ("gpus: [", "is not valid YAML"),
    ],
)
def test_a_wrong_cluster_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    asked = (*SMALL, "--home", str(tmp_path / "runs"), "--executor", "local", "--cluster")
    assert message in refused(capsys, *asked, str(file))


def test_a_wrong_cluster_section_of_a_preset_names_the_nearest_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("description: mine\nrouters: [dense]\ncluster: {tiem: 2h}\n")
    asked = ("run", "--preset", str(preset), "--home", str(tmp_path))
    assert "there is no setting 'cluster.tiem'; did you mean 'cluster.time'?" in refused(
        capsys, *asked
    )


def test_cluster_settings_are_not_part_of_stored_requests(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("description: mine\ncluster: {partition: gpu, gpus: 2}\n")
    loaded = load_preset(str(preset))
    assert loaded.cluster.gpus == 2
    assert "cluster" not in loaded.record()


def test_without_slurm_the_message_names_the_local_executor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(capsys, *SMALL, "--home", str(tmp_path), "--executor", "slurm")
    assert "no `sbatch`" in error
    assert "--executor local" in error


def test_without_submitit_the_message_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    error = refused(capsys, *SMALL, "--home", str(tmp_path), "--executor", "local")
    assert "pip install 'moe-router-bench[cluster]'" in error


def test_stop_names_the_nearest_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(tmp_path / "bench.db") as store:
        store.study("tiny", {})
    assert "did you mean 'tiny'?" in refused(capsys, "stop", "tinyy", "--home", str(tmp_path))


def test_stop_says_if_nobody_works_on_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(tmp_path / "bench.db") as store:
        run = store.start_run(store.study("tiny", {}), Run(*this_process(), command="c", jobs=1))
        store.finish_run(run)
    with pytest.raises(SystemExit) as exited:
        main(["stop", "tiny", "--home", str(tmp_path)])
    assert exited.value.code == 0
    assert capsys.readouterr().out == "nothing is running for study tiny\n"


def test_stop_names_runs_on_other_machines_despite_an_old_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster").mkdir()
    over = ArrayRecord("tiny", "local", ("7",), (), "c", "2026-01-01T00:00", "node1 b", "none")
    over.write(tmp_path)
    with open_store(tmp_path / "bench.db") as store:
        store.start_run(store.study("tiny", {}), Run("node7 b", 70, 0.0, command="c", jobs=1))
    with pytest.raises(SystemExit) as exited:
        main(["stop", "tiny", "--home", str(tmp_path)])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    assert printed == "process 70 on node7 is still running: run this command there\n"


@pytest.fixture
def left_alone(tmp_path: Path) -> Iterator[None]:
    """Ensure that no worker of an array outlives its test."""
    yield
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "submitit" in line and str(tmp_path) in line:
            for each in (*process.children(recursive=True), process):
                each.kill()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_a_local_array_does_a_study_and_reuses_it_the_second_time(
    tmp_path: Path, bench, in_process
) -> None:
    (tmp_path / "results.py").write_text("raise ImportError")  # a user's own file of the same name
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("setup: [export SEEN=1]\n")
    asked = [*SMALL, "--set", "train.epochs=0.2", "--executor", "local", "--workers", "2"]
    done = bench(tmp_path, *asked, "--cluster", str(cluster))
    assert "submitted 2 workers" in done.stdout
    assert "2 of 2 trials done" in done.stdout
    assert (tmp_path / "runs/reports/smoke/index.html").is_file()
    with open_store(tmp_path / "runs/bench.db") as store:
        runs = store.runs("smoke")
    assert len(runs) == 2
    assert {run.jobs for run in runs} == {1}
    assert all("--executor local" in run.command for run in runs)
    assert json.loads((tmp_path / "runs/cluster/smoke.json").read_text())["executor"] == "local"
    again = in_process(tmp_path, *asked)
    assert "submitted" not in again.stdout


WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("array_worker", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
command = [sys.executable, "-c", f"raise SystemExit({sys.argv[2]})"]
print(module.ArrayWorker(command, ".", (0, 0), None, 10, 1000)())
"""


@pytest.mark.parametrize(
    ("status", "ended"),
    [(0, "0"), (76, "76"), (1, "RuntimeError: the command ended with exit status 1")],
)
def test_a_worker_counts_as_finished_only_if_it_did_its_jobs(status: int, ended: str) -> None:
    """Also if some of them failed; Python itself ends with 1."""
    file = ROOT / "bench" / "execute" / "array_worker.py"
    command = [sys.executable, "-c", WORKER, str(file), str(status)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr).splitlines()[-1] == ended


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_an_array_adds_seeds_until_all_is_decided(tmp_path: Path, bench, in_process) -> None:
    asked = ["run", "accuracy", "--preset", "smoke", "--routers", "soft_moe,dense", "--no-report"]
    asked += ["--set", "train.epochs=0.2", "--executor", "local", "--workers", "2"]
    asked += ["--seeds", "auto", "--resolve", "100", "--max-seeds"]
    bench(tmp_path, *asked, "6")
    with open_store(tmp_path / "runs/bench.db") as store:
        assert list(trials_frame(store, "smoke")["status"]) == ["done"] * 6
        (study,) = store.studies()
    assert study.request["sequential"]["taken"] == 3
    assert "submitted" not in in_process(tmp_path, *asked, "6").stdout
    refused = in_process(tmp_path, *asked, "12", status=2)
    assert "has its interim analyses planned at 3, 6 seeds" in refused.stderr


@pytest.mark.slow
def test_stop_makes_a_run_on_this_machine_stop_early(tmp_path: Path, in_process) -> None:
    asked = [*SMALL, "--set", "train.epochs=5000", "--home", "runs", "--no-report"]
    command = [sys.executable, str(ROOT / "bench.py"), *asked]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    def trained() -> bool:
        logs = tmp_path.glob("runs/logs/*.log")
        return any(" step " in log.read_text() for log in logs)

    try:
        wait_for(trained)
        stopped = in_process(tmp_path, "stop", "smoke")
        _, error = running.communicate(timeout=60)
    finally:
        running.kill()
    line = rf"^process {running.pid} on \S+: asked to save and stop$"
    assert re.search(line, stopped.stdout, re.MULTILINE)
    assert "resume with: cd " in stopped.stdout
    assert running.returncode == 130
    assert "stopped early: SIGTERM" in error


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_tuning_in_an_array_gives_the_result_of_one_process(
    tmp_path: Path, bench, in_process
) -> None:
    asked = ["tune", "--preset", "smoke", "--routers", "soft_moe,dense", "--trials", "3"]
    asked += ["--seeds", "1", "--set", "train.epochs=0.2"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    array = ["--executor", "local", "--workers", "2"]
    for folder, command, more in ((together, bench, array), (alone, in_process, ["--jobs", "0"])):
        folder.mkdir()
        assert "best top-1 %" in command(folder, *asked, *more).stdout
    results = []
    for folder in (together, alone):
        with open_store(folder / "runs/bench.db") as store:
            results.append(search_results(store, "smoke-tuning"))
            assert len(trials_frame(store, "smoke-tuning", history=True)) == 6
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.usefixtures("left_alone")
def test_an_array_survives_its_display_and_stop_ends_it(tmp_path: Path, bench, in_process) -> None:
    long = yaml.safe_load((ROOT / "suites/presets/smoke.yaml").read_text())
    (tmp_path / "long.yaml").write_text(
        yaml.safe_dump({**long, "train": {**long["train"], "epochs": 5000}})
    )
    asked = ["run", "accuracy", "--preset", "long.yaml", "--routers", "soft_moe,dense"]
    asked += ["--seeds", "1", "--home", "runs", "--executor", "local", "--workers", "2"]
    command = [sys.executable, str(ROOT / "bench.py"), *asked]

    def opened() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, text=True, start_new_session=True, **pipes)

    def statuses() -> list[str]:
        with open_store(tmp_path / "runs/bench.db") as store:
            return list(trials_frame(store, "long")["status"])

    first = opened()
    wait_for(lambda: (tmp_path / "runs/cluster/long.json").exists())
    wait_for(lambda: statuses() == ["running", "running"])
    with open_store(tmp_path / "runs/bench.db") as store:
        workers = [psutil.Process(run.pid) for run in store.runs("long")]
    psutil.Process(first.pid).send_signal(2)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "only the display is closed; the workers go on (local array of " in error
    assert all(worker.is_running() for worker in workers)

    second = opened()
    assert second.stdout is not None
    assert "study long is already running: local array of " in second.stdout.readline()
    other = bench(tmp_path, *asked[:-1], "3", status=2)
    assert "another command is already running study 'long' (local array of " in other.stderr
    stopped = in_process(tmp_path, "stop", "long")
    assert "asked 2 workers to save and stop" in stopped.stdout
    assert "resume with: cd " in stopped.stdout
    _, error = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "stopped early: no worker finished" in error
    assert statuses() == ["interrupted", "interrupted"]
    assert len(list(tmp_path.glob("runs/trials/*/resume.safetensors"))) == 2
    with open_store(tmp_path / "runs/bench.db") as store:
        assert not any(map(alive, store.runs("long")))
