"""Whole commands that match compute by something other than FLOPs, as a user types them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.cli import main
from results import open_store
from results.frames import metrics_frame, trials_frame

pytestmark = pytest.mark.slow

SMALL = ["--preset", "smoke", "--routers", "dense,soft_moe", "--seeds", "1", "accuracy"]


def command(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    return exited.value.code


def facts(home: Path) -> dict[str, dict[str, float]]:
    """Return the model stats of each router's only trial."""
    with open_store(home / "bench.db") as store:
        metrics = metrics_frame(store)
    rows = metrics[metrics["step"].isna() & metrics["layer"].isna()]
    return {
        str(router): dict(zip(own["metric"], own["value"], strict=True))
        for router, own in rows.groupby("router")
    }


@pytest.mark.parametrize(
    ("match", "matched", "other"),
    [("step_flops", "step_flops", "params_total"), ("params", "params_total", "step_flops")],
)
def test_a_width_is_solved_for_once_and_used_everywhere(match, matched, other, tmp_path, capsys):
    asked = [*SMALL, "--set", f"compute.match={match}", "--set", "experts.num_experts=2"]
    asked += ["--set", "train.epochs=0.3", "--home", str(tmp_path)]
    assert command("plan", *asked, "--jobs", "0") == 0
    asked += ["--no-report"]
    planned = capsys.readouterr().out
    assert "soft_moe: experts.options.hidden " in planned
    assert "experts.options" not in planned.replace("soft_moe: experts.options.hidden", "")
    assert command("run", *asked, "--jobs", "0") == 0
    assert "2 trained" in capsys.readouterr().out
    stored = facts(tmp_path)
    dense, soft = stored["dense"], stored["soft_moe"]
    assert dense["steps"] == soft["steps"]
    assert soft["budget"] == dense[matched] == dense["budget"]
    assert soft[matched] == pytest.approx(dense[matched], rel=0.02)
    assert soft["budget_error"] == pytest.approx(soft[matched] / dense[matched] - 1)
    assert soft[other] != pytest.approx(dense[other], rel=0.001)
    assert command("run", *asked, "--jobs", "0") == 0
    assert "2 reused" in capsys.readouterr().out
    with open_store(tmp_path / "bench.db") as store:
        assert set(trials_frame(store, "smoke")["condition"]) == {""}


def test_a_budget_in_seconds_is_spent_reported_and_reused(tmp_path, capsys):
    asked = [*SMALL, "--set", "compute.match=wall_clock", "--set", "compute.seconds=1.5"]
    asked += ["--home", str(tmp_path)]
    assert command("plan", *asked, "--jobs", "0") == 0
    planned = capsys.readouterr().out
    assert planned.count("1.5 s") >= 2
    assert "All 2: unknown FLOPs" in planned
    assert command("run", *asked, "--jobs", "0") == 0
    for of_router in facts(tmp_path).values():
        assert of_router["budget"] == 1.5
        assert of_router["budget_error"] == pytest.approx(of_router["train_seconds"] / 1.5 - 1)
    capsys.readouterr()
    assert command("run", *asked, "--jobs", "0", "--no-report") == 0
    assert "2 reused" in capsys.readouterr().out
    with (tmp_path / "reports" / "smoke" / "tables" / "spent.csv").open() as file:
        rows = {row["router"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"Dense", "Soft MoE"}
    assert float(rows["Soft MoE"]["train_seconds"]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["compute.match=wall_clock"], "compute.match = wall_clock needs a budget"),
        (["compute.match=params", "experts.options.hidden=8"], "leave out one of the two"),
        (["compute.match=params", "experts.num_experts=999"], "num_experts = 999 of width 1 has"),
        (["compute.match=flops"], "compute.match = 'flops'"),
    ],
)
def test_an_impossible_matching_is_refused_in_one_line(settings, message, tmp_path, capsys):
    options = [part for setting in settings for part in ("--set", setting)]
    assert command("run", *SMALL, *options, "--home", str(tmp_path)) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("error: ")
    assert message in printed[0]
