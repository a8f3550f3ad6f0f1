"""Whole commands, as a user types them."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from bench.cli import main
from bench.execute import devices
from results import open_store
from results.frames import metrics_frame

pytestmark = pytest.mark.slow

QUICK = [
    *("--preset", "smoke", "--set", "train.epochs=0.2"),
    *("--set", "suites.throughput.seconds=0", "--set", "suites.throughput.min_repeats=1"),
    *("--set", "suites.throughput.model_batch=1"),
]
PLUGIN = '''
"""A router of mine."""
from helper import SHARPNESS
from routers import Router, TokenChoiceRouting, register_router


@register_router("mine_of_the_run_test", family="token_choice")
class Mine(Router):
    """Top-1 with sharper gates."""

    def allocate(self, logits):
        gates = (SHARPNESS * logits).softmax(-1)
        return TokenChoiceRouting.top_k(gates, k=1, capacity=self.capacity(logits))
'''


def here(*arguments: str, status: int = 0) -> None:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == status


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, in_process) -> Path:
    """The home of a finished quick run, with its output in `output.txt`."""
    folder = tmp_path_factory.mktemp("home")
    done = in_process(
        folder, "run", *QUICK, "--routers", "softmax_token_choice,dense", "--seeds", "2"
    )
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_a_run_ends_with_a_table_and_a_report(home: Path) -> None:
    output = (home / "output.txt").read_text()
    assert "Study smoke: mean of n seeds, ± half of its 95 % interval" in output
    assert re.search(r"^softmax_token_choice +\d+\.\d±\d+\.\d +", output, re.MULTILINE)
    assert "4 trained, 26 measured, 16 skipped" in output
    page = Path(re.search(r"^report: (.+)$", output, re.MULTILINE)[1])  # type: ignore[index]
    assert page.is_relative_to(home / "runs" / "reports" / "smoke")
    assert "softmax_token_choice" in page.read_text()
    shown = output[output.index("Study smoke: mean") :].splitlines()
    assert max(len(line) for line in shown if "report" not in line) <= 80


def test_repeating_a_run_reuses_everything(home: Path, capsys) -> None:
    request = [*QUICK, "--routers", "softmax_token_choice,dense", "--seeds", "2", "--no-report"]
    here("run", *request, "--home", str(home / "runs"))
    output = capsys.readouterr().out
    assert "4 reused" in output
    assert "trained" not in output


def test_status_prints_the_digest_that_a_run_ends_with(home: Path, capsys) -> None:
    request = [*QUICK, "--routers", "softmax_token_choice,dense", "--seeds", "2", "--no-report"]
    here("run", *request, "--home", str(home / "runs"))
    output = capsys.readouterr().out
    here("status", "--digest", "--home", str(home / "runs"))
    digest = capsys.readouterr().out
    assert "The latest run: 4 reused" in digest
    assert output.endswith(digest)


def test_plan_says_what_is_reused_and_what_is_trained(home: Path, capsys) -> None:
    request = [*QUICK, "--routers", "softmax_token_choice,soft_moe", "--seeds", "3"]
    here("plan", *request, "--home", str(home / "runs"), "--jobs", "0")
    output = capsys.readouterr().out
    assert "6 trials" in output
    assert re.search(r"^ +4 to train: new$", output, re.MULTILINE)
    assert re.search(r"^ +2 reused: same description, data and source$", output, re.MULTILINE)
    assert re.search(
        r"^soft_moe +\d+ +[\d.]+k +[\d.]+e\d+ +[\d.]+ .B +\d+ kB +[\d.]+ m?s$",
        output,
        re.MULTILINE,
    )
    assert re.search(
        r"^finishing time: about [\d.]+ .* with 1 worker \(\d\d:\d\d \S+\), of which\n"
        r"training [\d.]+ .*, measuring [\d.]+ .*, timings [\d.]+ [^,]*$",
        output,
        re.MULTILINE,
    )
    assert "without editing: not measured on this machine yet\n" in output  # it was skipped
    assert max(map(len, output.splitlines())) <= 80


def test_plan_in_an_empty_home_knows_no_finishing_time(tmp_path: Path, capsys) -> None:
    here("plan", *QUICK, "--routers", "soft_moe,dense", "--home", str(tmp_path / "runs"))
    output = capsys.readouterr().out
    assert re.search(r"^soft_moe +\d+ +[\d.]+k +[\d.]+e\d+ +.* kB +–$", output, re.MULTILINE)
    assert (
        "finishing time: unknown, no trial has run on this machine yet;\n"
        "`run` shows it after its first trials\n"
    ) in output
    assert not (tmp_path / "runs").exists()


def test_plan_with_too_few_gpus_says_everything_but_the_finishing_time(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ("0",))
    asked = [*QUICK, "--routers", "dense", "--set", "train.ranks=2", "--home", str(tmp_path)]
    here("plan", *asked)
    shown = " ".join(capsys.readouterr().out.split())
    assert "to train: new" in shown
    assert (
        "finishing time: not known here, since train.ranks = 2 needs 2 GPUs, one for each rank; "
        "usable here: 0"
    ) in shown
    here("plan", *asked, "--devices", "0", status=2)
    assert "train.ranks = 2 needs 2 GPUs" in capsys.readouterr().err


def test_plan_of_timings_alone_in_an_empty_home_knows_no_finishing_time(tmp_path, capsys) -> None:
    here("plan", "--preset", "speed", "--routers", "dense", "--home", str(tmp_path / "runs"))
    assert (
        "finishing time: unknown, throughput never ran on this machine;\n"
        "`run` shows it after its first measurements\n"
    ) in capsys.readouterr().out


def test_plan_of_another_preset_uses_the_rates_measured_on_this_machine(home: Path, capsys) -> None:
    request = ["--preset", "tiny", "--routers", "soft_moe,dense", "--seeds", "1", "--jobs", "1"]
    here("plan", "accuracy", "editing", *request, "--home", str(home / "runs"))
    output = capsys.readouterr().out
    assert re.search(r"^dense +\d+ +.* MB +[\d.]+ (?:s|min)$", output, re.MULTILINE)
    assert re.search(r"^finishing time: about [\d.]+ .* with 1 worker", output, re.MULTILINE)
    assert "without editing: not measured on this machine yet\n" in output


def test_plan_of_a_finished_study_has_nothing_left_to_do(home: Path, capsys) -> None:
    request = [*QUICK, "--routers", "softmax_token_choice,dense", "--seeds", "2"]
    here("plan", *request, "--home", str(home / "runs"))
    output = capsys.readouterr().out
    assert re.search(r"^ +4 reused: ", output, re.MULTILINE)
    assert "finishing time: nothing is left to do" in output


def test_plan_works_even_if_the_preset_cannot_run_here(tmp_path: Path, capsys) -> None:
    asked = ["--routers", "softmax_token_choice", "--seeds", "1", "--home", str(tmp_path / "runs")]
    fixed = ["--set", "model.options.depth=2", "--set", "experts.num_experts=4"]
    here("plan", "--preset", "study", *asked, *fixed)
    output = capsys.readouterr().out
    assert "6 trials" in output
    assert "timm:torch/imagenet) is not here" in output
    assert "nor the finishing time" in output
    assert not (tmp_path / "runs").exists()


def test_status_shows_each_trial(home: Path, capsys) -> None:
    here("status", "--home", str(home / "runs"))
    output = capsys.readouterr().out
    assert "Study smoke" in output
    assert len(re.findall(r"^[0-9a-f]{10}  (?:softmax_token_choice|dense) ", output, re.M)) == 4
    assert "4 of 4 trials done, 2 of 2 layers" in output


def test_why_says_that_a_trial_would_be_reused(home: Path, capsys) -> None:
    here("status", "--home", str(home / "runs"))
    trial = re.search(r"^([0-9a-f]{10})  dense", capsys.readouterr().out, re.MULTILINE)[1]
    here("why", trial, "--home", str(home / "runs"))
    output = capsys.readouterr().out
    assert "reused: same description, data and source" in output
    assert "same     router 'dense'" in output
    assert "CHANGED" not in output


def test_report_writes_into_a_given_folder(home: Path, tmp_path: Path, capsys) -> None:
    here("report", "--home", str(home / "runs"), "--out", str(tmp_path / "paper"))
    assert (tmp_path / "paper" / "index.html").exists()
    assert str(tmp_path / "paper") in capsys.readouterr().out


def test_the_database_is_described_and_exported(home: Path, tmp_path: Path, capsys) -> None:
    here("db", "info", "--home", str(home / "runs"))
    assert re.search(r"^smoke +4 +2 ", capsys.readouterr().out, re.MULTILINE)
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        file = tmp_path / f"results{ending}"
        here("db", "export", str(file), "--home", str(home / "runs"))
        frame = read(file)
        assert set(frame["suite"]) == {
            *("accuracy", "fewshot", "scaling", "throughput"),
            *("balance", "entropy", "specialization", "stability", "traces", "pruning"),
        }
        assert set(frame["router"]) == {"softmax_token_choice", "dense"}
    here("db", "upgrade", "--home", str(home / "runs"))


def test_a_plugin_is_retrained_if_its_helper_changes_but_not_for_a_comment(
    tmp_path: Path,
    bench,
) -> None:
    plugin, helper = tmp_path / "mine.py", tmp_path / "helper.py"
    plugin.write_text(PLUGIN)
    helper.write_text("SHARPNESS = 2.0\n")
    asked = ["run", "balance", "--preset", "smoke", "--set", "train.epochs=0.1", "--no-report"]
    asked += ["--routers", "mine_of_the_run_test", "--plugin", "mine.py"]
    assert "1 trained" in bench(tmp_path, *asked).stdout
    helper.write_text("# Sharper.\nSHARPNESS = 2.0\n")
    assert "1 reused" in bench(tmp_path, *asked).stdout
    helper.write_text("SHARPNESS = 3.0\n")
    asked = [each for each in asked[1:] if each != "--no-report"]
    planned = bench(tmp_path, "plan", *asked, "--jobs", "1")
    changed = "changed source: router 'mine_of_the_run_test'"
    assert re.search(rf"^ +1 to train: {changed}$", planned.stdout, re.MULTILINE)
    assert re.search(r"^finishing time: about .* with 1 worker", planned.stdout, re.MULTILINE)


def test_a_failure_ends_with_status_1_and_the_list(tmp_path: Path, capsys, in_process) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        PLUGIN.replace("from helper import SHARPNESS\n", "")
        .replace("mine_of_the_run_test", "bad_of_the_run_test")
        .replace("(SHARPNESS * logits)", "logits[:, :, :, 7]")
    )
    done = in_process(
        tmp_path,
        *("run", "balance", "--preset", "smoke", "--set", "train.epochs=0.1", "--no-report"),
        *("--routers", "bad_of_the_run_test,dense", "--plugin", str(plugin)),
        status=1,
    )
    assert "1 trained" in done.stdout
    assert "bad_of_the_run_test, seed 0: training failed: IndexError: " in done.stdout
    here("status", "--home", str(tmp_path / "runs"))
    line = r"^[0-9a-f]{10}  bad_of_the_run_test +0 +failed "
    assert re.search(line, capsys.readouterr().out, re.MULTILINE)


def test_timings_taken_under_load_are_repeated_on_request(tmp_path: Path, in_process) -> None:
    quick = [*QUICK, "--set", "suites.throughput.max_load=1000", "--no-report", "--jobs", "0"]
    asked = ["run", "throughput", *quick, "--routers", "dense", "--seeds", "1"]

    def timings() -> list[int]:
        with open_store(tmp_path / "runs" / "bench.db") as store:
            made = metrics_frame(store, "smoke")
        return made[made["metric"] == "disturbed"]["measurement"].unique().tolist()

    in_process(tmp_path, *asked)
    assert timings() == [1]
    in_process(tmp_path, *asked, "--retry", "noisy")
    assert timings() == [1]
    with closing(sqlite3.connect(tmp_path / "runs" / "bench.db")) as database:
        database.execute("UPDATE metrics SET value = 1 WHERE name = 'disturbed'")
        database.commit()
    in_process(tmp_path, *asked)
    assert timings() == [1]
    assert "1 measured" in in_process(tmp_path, *asked, "--retry", "noisy").stdout
    assert timings() == [2]
    in_process(tmp_path, *asked, "--retry", "noisy")
    assert timings() == [2]
