"""Whole commands on trials that are pruned, fine-tuned and pruned again."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.cli import main
from bench.config.presets import load_preset

pytestmark = pytest.mark.slow

ROUTER = "softmax_token_choice"


def here(*arguments: str) -> None:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 0


def test_a_trial_is_pruned_fine_tuned_and_pruned_again(tmp_path: Path, capsys) -> None:
    smoke = load_preset("smoke").model_dump(mode="json", exclude={"name", "routers"})
    entropy = {"importance": 0.01, "gate_entropy": 0.01}

    def fewer(number: int, transform: str, **more: object) -> dict[str, object]:
        settings = {"experts.num_experts": number, "train.losses": entropy}
        return {
            "routers": [ROUTER],
            "set": settings | more,
            "parent": {"router": ROUTER, "transform": transform},
        }

    asked = smoke | {
        "train": smoke["train"] | {"epochs": 0.3},
        "suites": {"accuracy": {}, "pruning": {"seconds": 0.01, "min_repeats": 1}},
        "parts": [
            {"routers": [ROUTER]},
            fewer(2, "prune_router_change"),
            fewer(1, "merge_outputs"),
        ],
    }
    (tmp_path / "pruned.yaml").write_text(yaml.safe_dump(asked))
    command = ["--preset", str(tmp_path / "pruned.yaml"), "--home", str(tmp_path / "runs")]
    here("run", *command)
    assert "3 trained, 5 measured" in capsys.readouterr().out
    here("run", *command)
    assert "3 reused" in capsys.readouterr().out
    here("db", "export", str(tmp_path / "all.csv"), *command[2:])
    rows = pd.read_csv(tmp_path / "all.csv")
    rows = rows.assign(where=rows["where"].fillna("{}").map(json.loads))
    left = rows[rows.metric == "pruned_top1"]
    sizes = left.groupby("trial")["where"].agg(lambda own: {place["experts"] for place in own})
    assert sorted(map(sorted, sizes)) == [
        [1, 2],
        [1, 2, 4],
    ]  # pruning the last expert would leave none
    starts = left["where"].map(lambda place: place.get("reference")).dropna()
    assert set(starts) == {"initial weights", "parent"}
    assert rows[rows.metric == "params_total"]["value"].nunique() == 3
    report = (tmp_path / "runs" / "reports" / "pruned" / "report.md").read_text()
    assert "Pruned models by experts left" in report
    assert "Not defined" not in report
