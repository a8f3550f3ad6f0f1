"""`db merge` and `db verify` as a user types them, on databases of two small runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.tune import search_results
from results import open_store
from results.frames import metrics_frame

pytestmark = pytest.mark.slow

QUICK = [
    *("--preset", "smoke", "--set", "train.epochs=0.2", "--no-report", "--study", "both"),
    *("--jobs", "0"),
    *("--set", "suites.throughput.seconds=0", "--set", "suites.throughput.min_repeats=1"),
    *("--set", "suites.throughput.model_batch=1"),
]

SUITES = ["accuracy", "throughput"]
THREE = ["--routers", "dense,soft_moe,random", "--seeds", "1"]


@pytest.fixture(scope="module")
def run(in_process) -> Callable[..., str]:
    """`run(folder, *arguments, threads=1, status=0)`: a command's output, with its home there."""

    def printed(folder: Path, *arguments: str, threads: int = 1, status: int = 0) -> str:
        torch.set_num_threads(threads)
        try:
            done = in_process(folder, *arguments, status=status)
        finally:
            torch.set_num_threads(1)
        return done.stdout + done.stderr

    return printed


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, run) -> tuple[Path, Path]:
    """Two homes that both trained `dense`, on two machines: their numbers of threads differ."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for threads, (folder, router) in enumerate(zip(folders, ["soft_moe", "random"], strict=True)):
        request = [*SUITES, *QUICK, "--routers", f"dense,{router}", "--seeds", "1"]
        run(folder, "run", *request, threads=threads + 1)
    return folders


def test_a_merged_database_is_reported_reused_and_merged_again(nodes, run, tmp_path: Path) -> None:
    sources = [str(node / "runs" / "bench.db") for node in nodes]
    output = run(tmp_path, "db", "merge", *sources)
    assert output.count("2 attempts") == 2
    assert "copied the weights of 2 trials" in output
    assert max(map(len, output.splitlines())) <= 100
    again = run(tmp_path, "db", "merge", *reversed(sources))
    assert again.count("  nothing new\n") == 2
    assert "nothing was changed" in again
    with open_store(tmp_path / "runs" / "bench.db", create=False) as store:
        frame = metrics_frame(store, "both")
    timed = frame[frame["metric"] == "forward_ms"]
    assert timed.groupby("router")["machine"].nunique()["dense"] == 2
    assert frame[frame["metric"] == "top1"].groupby("router")["trial"].nunique().to_dict() == {
        "dense": 1,
        "random": 1,
        "soft_moe": 1,
    }
    report = run(tmp_path, "report", "--study", "both", "--out", "paper")
    page = (tmp_path / "paper" / "index.html").read_text()
    assert "soft_moe" in page
    assert "random" in page
    assert "report:" in report
    run(tmp_path, "report", "--check", "paper")
    # A new suite needs the weights, which were merged too.
    output = run(tmp_path, "run", "accuracy", "fewshot", *QUICK, *THREE)
    assert "The latest run: 3 reused, 3 measured" in output
    assert "nothing is wrong" in run(tmp_path, "db", "verify")
    (weights, *_) = (tmp_path / "runs" / "trials").glob("*/*.safetensors")
    weights.write_bytes(b"changed")
    output = run(tmp_path, "db", "verify", status=1)
    assert f"checkpoint  trials/{weights.parent.name}/" in output  # the rest is on the next line
    assert "1 fault; nothing was changed" in output


def test_a_second_machine_continues_after_merging_the_first(nodes, run, tmp_path: Path) -> None:
    """Its home has its own results, and weights of `dense` that differ from the merged ones."""
    home = tmp_path / "runs"
    shutil.copytree(nodes[0] / "runs", home)
    run(tmp_path, "db", "merge", str(nodes[1] / "runs" / "bench.db"))
    assert "nothing is wrong" in run(tmp_path, "db", "verify")
    output = run(tmp_path, "run", "accuracy", "fewshot", *QUICK, *THREE)
    assert "The latest run: 3 reused, 3 measured" in output
    with open_store(home / "bench.db", create=False) as store:
        frame = metrics_frame(store, "both").query("metric == 'transfer_top1'")
    assert sorted(frame["router"]) == ["dense", "random", "soft_moe"]


def test_run_tuned_needs_only_the_merged_database(run, tmp_path: Path) -> None:
    """Two machines tune one router each; all their trials are merged from their `tuning.db`."""
    quick = ["--preset", "smoke", "--set", "train.epochs=0.2"]
    nodes, best = {name: tmp_path / name for name in ("dense", "soft_moe")}, {}
    for router, node in nodes.items():
        node.mkdir()
        run(node, "tune", *quick, "--routers", router, "--trials", "2", "--seeds", "1")
        with open_store(node / "runs" / "bench.db", create=False) as store:
            best |= search_results(store, "smoke-tuning")
    sources = [str(node / "runs" / "bench.db") for node in nodes.values()]
    merged = tmp_path / "merged"
    merged.mkdir()
    output = run(merged, "db", "merge", *sources)
    for router, source in zip(nodes, sources, strict=True):
        line = f"tuning smoke-tuning of {router}: 2 trainings from sqlite:///{source}"
        assert line in output.splitlines()
    assert "nothing was changed" in run(merged, "db", "merge", *sources)
    for node in nodes.values():
        shutil.rmtree(node)
    asked = ["--routers", "dense,soft_moe", "--seeds", "1", "--tuned", "--no-report"]
    assert "2 trained" in run(merged, "run", "accuracy", *quick, *asked)
    with open_store(merged / "runs" / "bench.db", create=False) as store:
        tuned = store.find_study("smoke-tuned").request["tuned"]
        assert search_results(store, "smoke-tuning") == best
    assert {name: each["settings"] for name, each in tuned.items()} == {
        name: each.settings for name, each in best.items()
    }
