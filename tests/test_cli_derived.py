"""Whole commands on a study with a derived trial, as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.cli import main
from bench.config.presets import load_preset

pytestmark = pytest.mark.slow

PARENT = "softmax_token_choice"


def here(*arguments: str) -> None:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 0


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    """Options for a custom preset whose second part distils the first, and a home."""
    smoke = load_preset("smoke").model_dump(mode="json", exclude={"name", "routers", "suites"})
    distilled = {
        "routers": [PARENT],
        "set": {"router.affinity": "mlp", "train.losses": {}},
        "parent": {"router": PARENT, "transform": "distill"},
    }
    asked = {
        **smoke,
        "train": {**smoke["train"], "epochs": 0.2},
        "sweep": {"train.losses": [{}, {"importance": 0.6}]},
        "suites": {"accuracy": {}},
        "parts": [{"routers": ["dense", PARENT]}, distilled],
    }
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(asked))
    return ["--home", str(tmp_path / "runs")]


def test_a_study_with_derived_trials_works_from_plan_to_report(place, tmp_path, capsys) -> None:
    asked = ["--preset", str(tmp_path / "gates.yaml"), *place]
    here("plan", *asked, "--jobs", "0")
    planned = capsys.readouterr().out
    assert "gates: 5 trials" in planned
    for value in ("0.6", "unset"):
        assert planned.count(f"parent.train.losses.importance={value}") == 1
    assert planned.count("parent.") == 2
    here("run", *asked)
    assert "5 trained, 5 measured" in capsys.readouterr().out
    here("run", *asked)
    assert "5 reused" in capsys.readouterr().out
    here("status", *place)
    printed = capsys.readouterr().out
    assert printed.count("started from ") == 2
    child = re.findall(r"^([0-9a-f]{10}) ", printed.split("started from ")[0], re.MULTILINE)[-1]
    here("why", child, *place)
    assert f"distill from {PARENT}, trial " in capsys.readouterr().out
    here("db", "export", str(tmp_path / "all.csv"), *place)
    exported = pd.read_csv(tmp_path / "all.csv")
    assert exported.condition.str.contains(f"transform=distill parent={PARENT}").sum() > 0
    report = (tmp_path / "runs" / "reports" / "gates" / "report.md").read_text()
    for condition in set(exported.condition.dropna()):
        assert condition in report


def test_requesting_a_child_alone_trains_its_parent_too(place, tmp_path, capsys) -> None:
    asked = ["--preset", str(tmp_path / "gates.yaml"), *place]
    here("plan", *asked, "--routers", PARENT, "--set", "train.losses={}", "--jobs", "0")
    assert "gates: 2 trials" in capsys.readouterr().out
