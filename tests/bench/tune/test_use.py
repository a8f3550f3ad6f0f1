"""Runs that use the results of a tuning, in whole commands."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import main
from bench.config.presets import load_preset
from bench.plan.expand import trial_specs
from bench.plan.plan import make_plan, make_request
from bench.tune import best_settings
from bench.tune.best_settings import is_unfinished, search_results, with_tuned
from results import open_store
from results.tuned import SearchResult, SettingResult
from routers.errors import RequestError
from tests.bench.tune.conftest import QUICK, preset_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_a_run_uses_the_settings_tuned_for_each_router(tuned, store, datasets) -> None:
    result = tuned(["softmax_token_choice", "dense"], 2)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    asked = make_request(whole, routers=["softmax_token_choice", "dense"], seeds=2, settings=QUICK)
    request = with_tuned(asked, store, "t")
    plan = make_plan(request, datasets)
    assert len(plan.trials) == 4
    for planned in plan.trials:
        spec, settings = planned.spec, result[planned.spec.router.name].settings
        assert spec.found == tuple(sorted(settings))
        assert spec.train.lr == settings["train.lr"]
        options = {f"router.{name}": value for name, value in spec.router.options.items()}
        assert {**options, **settings} == {**settings, **options}
        assert planned.label == spec.router.name  # tuned values do not split conditions
    record = request.record()["tuned"]["dense"]
    assert record["settings"] == result["dense"].settings
    assert (record["trials"], list(record["values"])) == (2, list(result["dense"].values))


def test_a_run_refuses_untuned_routers_and_settings_given_twice(tuned, store) -> None:
    tuned(["dense"], 1)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    with pytest.raises(RequestError, match=r"no result for random; run `python bench\.py tune"):
        with_tuned(make_request(whole, routers=["dense", "random"]), store, "t")
    dense = make_request(whole, routers=["dense"])
    with pytest.raises(RequestError, match=r"train\.lr is set, but was also tuned for dense"):
        with_tuned(dense, store, "t", ["train.lr"])
    swept = replace(dense, preset=dense.preset.model_copy(update={"sweep": {"train.lr": (1, 2)}}))
    with pytest.raises(RequestError, match=r"train\.lr is set, but was also tuned for dense"):
        with_tuned(swept, store, "t")


def setting_result(*values: float) -> SettingResult:
    trainings = tuple(str(seed) for seed in range(len(values)))
    return SettingResult({"train.lr": 0.1}, "done", values, trainings, None, 0.0)


@pytest.mark.parametrize(
    ("tried", "between"),
    [
        ([(0.9,), (0.8,), (0.7,), (0.6,)], False),
        ([(0.9, 0.5), (0.8,), (0.7,), (0.6,)], True),
        ([(0.9, 0.5), (0.8, 0.8), (0.7,), (0.6,)], False),
        ([(0.9, 0.5, 0.5), (0.8, 0.8), (0.7,), (0.6,)], True),
    ],
)
def test_a_tuning_interrupted_between_rungs_is_recognised_as_incomplete(tried, between) -> None:
    """Otherwise the only setting on a second seed would win, whatever its result."""
    results = tuple(setting_result(*values) for values in tried)
    values = tuple(each.values[0] for each in results)
    result = SearchResult(4, 4, 0, 0, values, 0.9, 1, {}, None, (), results, None, 0.0)
    assert is_unfinished(result) == between
    assert is_unfinished(result, trials=5), "one setting was not tried"
    assert is_unfinished(result, seeds=9), "the best have not reached all seeds"


def test_a_run_refuses_an_interrupted_tuning(tuned, store, monkeypatch) -> None:
    tuned(["dense"], 1)
    monkeypatch.setattr(best_settings, "is_unfinished", lambda *_: True)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    with pytest.raises(RequestError, match=r"tuning 't' of dense was interrupted .*again"):
        with_tuned(make_request(whole, routers=["dense"]), store, "t")


def test_a_run_before_any_tuning_names_the_command_to_tune(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--tuned", "--preset", "smoke", "--home", str(tmp_path / "new")])
    assert "nothing was tuned yet" in (printed := capsys.readouterr().err)
    assert "`python bench.py tune`" in printed
    assert not (tmp_path / "new").exists()


def test_settings_tuned_for_one_router_do_not_affect_others() -> None:
    preset = preset_of(["dense", "softmax_token_choice"])
    changed = preset.model_copy(update={"tuned": {"dense": {"train.lr": 0.5}}})
    (dense, *_), (before, *_) = trial_specs(changed), trial_specs(preset)
    assert (dense.train.lr, dense.found) == (0.5, ("train.lr",))
    assert dense.model_copy(update={"train": before.train, "found": ()}) == before
    assert trial_specs(changed)[1] == trial_specs(preset)[1]


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def test_tune_and_run_tuned_work_as_commands(tmp_path, capsys) -> None:
    home = ("--home", str(tmp_path), "--jobs", "0")
    ours = ("--preset", str(own_preset(tmp_path)))
    assert bench("run", *ours, *home, "--tuned") == 2
    assert bench("tune", *ours, *home) == 0
    assert bench("tune", *ours, *home, "--routers", "dense", "--trials", "3") == 0
    printed = capsys.readouterr().out
    assert "Tuning own-tuning: the best mean accuracy on the validation split" in printed
    assert bench("run", *ours, *home, "--tuned") == 0
    report = (tmp_path / "reports" / "own-tuned" / "report.md").read_text()
    assert "Tuning was not equal: 5 for Dense; 4 for Softmax Token Choice (trainings)" in report
    assert bench("run", *ours, *home, "--tuned", "--set", "train.lr=0.1") == 2
    assert "train.lr is set, but was also tuned" in capsys.readouterr().err
    # A tuning is not shown if no study is named.
    assert bench("tune", *ours, *home, "--trials", "3") == 0
    capsys.readouterr()
    assert bench("status", "--home", str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("Study own-tuned")
    assert bench("status", "--home", str(tmp_path), "--study", "own-tuning") == 0
    assert capsys.readouterr().out.startswith("Study own-tuning")


def own_preset(folder: Path) -> Path:
    file = folder / "own.yaml"
    folder.mkdir(exist_ok=True)
    file.write_text(
        "description: Small.\nrouters: [softmax_token_choice, dense]\nseeds: 1\n"
        "model: {options: {img_size: 8, patch_size: 2, embed_dim: 16, depth: 2, num_heads: 2}}\n"
        "experts: {num_experts: 4}\ndata: {name: digits}\n"
        "train: {epochs: 0.2, evaluations: 2}\nsuites: {accuracy: {}}\n"
        "tune: {trials: 2, seeds: 2}\n"
    )
    return file


def asked_of(home: Path) -> list[str]:
    """Start a tuning in workers."""
    asked = ["tune", "--preset", str(own_preset(home)), "--set", "train.epochs=1"]
    return [*asked, "--home", str(home), "--jobs", "2", "--save-every", "0"]


def test_a_killed_tuning_ends_like_an_undisturbed_one(tmp_path, capsys) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert bench(*asked_of(whole)) == 0
    process = subprocess.Popen(
        [sys.executable, "bench.py", *asked_of(killed)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 120
    assert process.stdout is not None
    for line in process.stdout:  # in the middle of a router's first training on a second seed
        assert time.monotonic() < end
        if line.startswith(("3/8", "7/8")) and "training" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert bench(*asked_of(killed)) == 0
    assert capsys.readouterr().err == ""
    with open_store(whole / "bench.db") as first, open_store(killed / "bench.db") as second:
        assert search_results(first, "own-tuning") == search_results(second, "own-tuning")
