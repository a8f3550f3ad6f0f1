"""Few-shot transfer in whole commands: measured if it fits, refused before training if not."""

from __future__ import annotations

import pytest

from bench.cli import main
from bench.data import DATASETS
from results import load_study

COLOUR = """
import numpy as np
from bench.data import RawData, register_dataset


@register_dataset("colour")
def colour(folder):
    images, labels = np.zeros((40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 4
    return RawData.from_arrays(images, labels, ("a", "b", "c", "d"), test=range(20, 40))
"""
RUN = ("run", "fewshot", "--preset", "smoke", "--routers", "dense", "--study", "few")


@pytest.mark.slow
def test_a_tiny_model_transfers_to_two_data_sets(in_process, tmp_path):
    done = in_process(tmp_path, *RUN, "--set", "suites.fewshot.data=[digits, mnist5k]")
    metrics = load_study("few", home=tmp_path / "runs").metrics
    rows = metrics[metrics["metric"] == "fewshot_top1"]
    assert len(rows) == 6  # two sets, three numbers of shots
    headline = metrics[metrics["metric"] == "transfer_top1"]["value"].item()
    assert 0.2 < headline < 1  # of ten classes
    assert f"{100 * headline:.1f}" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data=[digits]", "shots=[1, 500]"], "class 8 of 'digits' has 141 training images"),
        (["data=[digitz]"], "no dataset is named 'digitz'; did you mean 'digits'"),
        (["data=[colour]"], "'colour' has images of 3 channels, and the model was trained on 1"),
    ],
)
@pytest.mark.slow
def test_a_transfer_set_that_does_not_fit_is_refused_before_training(
    options, message, tmp_path, capsys
):
    settings = [part for option in options for part in ("--set", f"suites.fewshot.{option}")]
    plugin = tmp_path / "colour.py"
    plugin.write_text(COLOUR, encoding="utf-8")
    place = ("--plugin", str(plugin), "--home", str(tmp_path / "runs"))
    try:
        with pytest.raises(SystemExit) as exited:
            main([*RUN, *settings, *place])
    finally:
        DATASETS.discard("colour")
    assert exited.value.code == 2
    out, err = capsys.readouterr()
    assert f"suite fewshot: {message}" in err
    assert "train" not in out
