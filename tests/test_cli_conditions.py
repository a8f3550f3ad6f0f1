"""Two requests for one study that differ in a setting, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.cli import main

pytestmark = pytest.mark.slow

QUICK = (
    *("run", "accuracy", "--preset", "smoke", "--set", "train.epochs=0.1", "--jobs", "1"),
    *("--study", "mixed", "--no-report"),
)
FIRST = ("--routers", "softmax_token_choice,soft_moe,dense")
SECOND = ("--routers", "softmax_token_choice,sparsity_constrained_expert_choice,dense")


def bench(home: Path, *arguments: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main([*arguments, "--home", str(home)])
    assert exited.value.code == 0


@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [("router.capacity_factor", "1.0", "2.0"), ("train.losses.importance", "0.01", "0.1")],
)
def test_a_router_is_listed_with_the_setting_that_it_was_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, first: str, second: str
) -> None:
    bench(tmp_path, *QUICK, *FIRST)
    bench(tmp_path, *QUICK, *SECOND, "--set", f"{setting}={second}")
    expected = {
        ("dense", ""),
        ("softmax_token_choice", f"{setting}={first}"),
        ("softmax_token_choice", f"{setting}={second}"),
        ("soft_moe", f"{setting}={first}"),
        ("sparsity_constrained_expert_choice", f"{setting}={second}"),
    }
    bench(tmp_path, "db", "export", str(tmp_path / "all.csv"))
    exported = pd.read_csv(tmp_path / "all.csv", keep_default_na=False)
    assert set(zip(exported["router"], exported["condition"], strict=True)) == expected
    capsys.readouterr()
    bench(tmp_path, "report", "--trace", "main", "sparsity_constrained_expert_choice", "top1")
    assert (
        f"Sparsity-constrained Expert Choice, {setting}={second}, seed 0" in capsys.readouterr().out
    )
