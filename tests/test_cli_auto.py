"""`run --seeds auto` and `run --aa` as whole commands, as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bench.cli import main
from bench.config.presets import load_preset
from report.study import load_study
from results import open_store

pytestmark = pytest.mark.slow

ROUTERS = ("soft_moe", "dense")


def here(*arguments: str, status: int = 0) -> None:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == status


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Options for a custom preset of short trainings, its routers, a home, and no processes."""
    smoke = load_preset("smoke").model_dump(mode="json", exclude={"name", "parts", "suites"})
    own = {**smoke, "train": {**smoke["train"], "epochs": 0.1}, "suites": {"accuracy": {}}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(own | {"seeds": 1}))
    arguments = ["--preset", str(tmp_path / "short.yaml"), "--routers", ",".join(ROUTERS)]
    return [*arguments, "--home", str(tmp_path / "runs"), "--jobs", "0"]


def test_seeds_are_added_up_to_the_limit_and_the_report_says_so(asked, tmp_path, capsys) -> None:
    auto = [*asked, "--seeds", "auto", "--max-seeds", "6", "--resolve"]
    here("plan", *auto, "0")
    printed = capsys.readouterr().out
    assert "12 trials" in printed
    sentence = "All this at most: with --seeds auto it may be over at each interim analysis, at\n"
    assert f"{sentence}3, 6 seeds." in printed

    here("run", *auto, "0")
    printed = capsys.readouterr().out
    analyses = re.findall(
        r"^(\d) seeds: (\d) of 1 differences decided; (.+)$", printed, re.MULTILINE
    )
    assert analyses[0][0] == "3"
    assert analyses[-1][2] in ("that is all", "this is the limit")

    with open_store(tmp_path / "runs" / "bench.db") as store:
        study = load_study(store, "short")
    taken, decided = int(analyses[-1][0]), int(analyses[-1][1])
    assert sorted(study.trials["seed"].unique()) == list(range(taken))
    assert study.trials.groupby("router").size().nunique() == 1, (
        "all routers must have the same seeds"
    )
    assert study.record.request["sequential"] == {
        "resolve": 0.0,
        "looks": 2,
        "seeds": [3, 6],
        "taken": taken,
        "compared": 1,
        "decided": decided,
    }
    assert study.record.request["preset"]["seeds"] == taken
    report = (tmp_path / "runs" / "reports" / "short" / "report.md").read_text()
    assert "p-values are multiplied by 2" in report
    assert f"stopped at {taken} seeds" in report

    here("run", *auto, "0", "--no-report")
    again = capsys.readouterr().out
    assert "trained" not in again.rpartition("The latest run:")[2].splitlines()[0]
    assert [line for line in again.splitlines() if "differences decided" in line] == [
        f"{seeds} seeds: {number} of 1 differences decided; {rest}"
        for seeds, number, rest in analyses
    ]

    here("run", *asked, "--seeds", "auto", "--max-seeds", "12", status=2)
    assert "has its interim analyses planned at 3, 6 seeds" in capsys.readouterr().err

    here("run", "balance", *asked, "--seeds", "3", "--no-report")
    with open_store(tmp_path / "runs" / "bench.db") as store:
        later = load_study(store, "short")
    assert later.record.request["sequential"] == study.record.request["sequential"]
    assert later.planned_analyses == 2, (
        "tests of results seen in an interim analysis stay corrected for it"
    )


def test_a_large_difference_to_resolve_ends_at_the_first_analysis(asked, tmp_path, capsys) -> None:
    here("run", *asked, "--seeds", "auto", "--resolve", "100", "--no-report")
    assert "3 seeds: 1 of 1 differences decided; that is all" in capsys.readouterr().out
    with open_store(tmp_path / "runs" / "bench.db") as store:
        assert len(load_study(store, "short").trials) == 6


def test_aa_trains_each_router_again_as_its_own_control(asked, tmp_path, capsys) -> None:
    here("plan", *asked, "--seeds", "2", "--aa")
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"soft_moe", "dense", "soft_moe (twin)"} <= {row.strip() for row in rows}
    here("run", *asked, "--seeds", "2", "--aa")
    assert "soft_moe (twin)" in capsys.readouterr().out
    with open_store(tmp_path / "runs" / "bench.db") as store:
        study = load_study(store, "short")
    assert [system.key for system in study.systems] == ["dense", "soft_moe"]
    weights = study.trials.groupby(["router", "aa_replicate"])["checkpoint_sha256"].unique()
    assert sorted(weights.index) == [("dense", 0), ("soft_moe", 0), ("soft_moe", 1)]
    assert not set(weights["soft_moe", 0]) & set(weights["soft_moe", 1])
    report = (tmp_path / "runs" / "reports" / "short" / "report.md").read_text()
    assert "A/A control: each router against itself" in report
    assert "of 1 test of a router against itself" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds many", "--seeds many: give a number of at least 1, or auto"),
        ("--seeds 0", "--seeds 0: give a number of at least 1, or auto"),
        ("--seeds 3 --resolve 1", "--resolve and --max-seeds belong to --seeds auto"),
        ("--max-seeds 9", "--resolve and --max-seeds belong to --seeds auto"),
        ("--seeds auto --max-seeds 2", "--max-seeds 2 is below the first interim analysis"),
        ("balance --seeds auto", "the suite 'accuracy' is not requested"),
        ("--seeds auto --routers dense", "'dense' is the only one"),
    ],
)
def test_an_impossible_request_is_one_message(arguments, message, asked, tmp_path, capsys) -> None:
    here("run", *asked, *arguments.split(), status=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "runs").exists()
