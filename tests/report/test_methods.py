"""The methods section: it describes what was requested and what really ran."""

from __future__ import annotations

import pytest

from bench.config import load_preset
from report.methods import methods, methods_latex, methods_markdown
from report.study import load_study

ROUTERS = {"dense": [0.8, 0.81], "random": [0.7, 0.71], "soft_moe": [0.9, None]}


@pytest.fixture
def study(lab, store):
    lab().study_of(ROUTERS)
    store.study("tiny", {"preset": load_preset("tiny").model_dump(mode="json"), "suites": {}})
    return load_study(store)


def test_each_paragraph_describes_what_was_requested_and_what_ran(study):
    said = dict(methods(study))
    assert list(said) == [
        "Data and model", "Routers", "Training", "Budget and tuning", "Seeds and comparisons",
        "Tables",
        "Hardware and software",
    ]  # fmt: skip
    for heading, sentence in (
        ("Data and model", "Models were trained on fashion_mnist_mini."),
        ("Data and model", "Training images were augmented by random flips."),
        (
            "Data and model",
            "MoE layers are in the even-numbered blocks; tokens are routed within",
        ),
        ("Routers", "Routers compared: soft_moe (arXiv 2401.15969)."),
        ("Routers", "Baselines without a learned router are dense and random."),
        ("Training", "Fixed settings: learning rate 0.004, weight decay 0.05, batches of 64"),
        ("Training", "gradients clipped at norm 1.0, precision float32 and auxiliary losses"),
        ("Training", "importance (weight 0.01)."),
        ("Budget and tuning", "The budget is what the dense model takes in 3 epochs."),
        ("Seeds and comparisons", "Each system was trained with 2 seeds."),
        ("Seeds and comparisons", "1 trial did not finish and left no result."),
        ("Hardware and software", "Hardware: Processor of node-1 (1 thread)."),
        ("Hardware and software", "commit 0123456789ab, Python 3.11, torch 2.6."),
    ):
        assert sentence in said[heading]


def test_the_methods_section_is_written_in_markdown_and_latex(study):
    assert "\n## Training\n\nModels were trained by AdamW" in methods_markdown(study)
    latex = methods_latex(study)
    assert r"\paragraph{Training.} Models were trained by AdamW" in latex
    assert r"fashion\_mnist\_mini" in latex


def test_settings_that_were_tuned_swept_or_set_in_a_part_are_not_called_fixed(lab, store):
    lab().study_of(ROUTERS)
    preset = load_preset("tiny").model_dump(mode="json")
    preset["sweep"] = {"train.losses.importance": [0.0, 0.1]}
    preset["parts"] = [{"routers": ["soft_moe"], "set": {"train.batch_size": 32}, "sweep": {}}]
    tuned = {
        "trials": 4, "done": 4, "pruned": 0, "failed": 0, "values": [0.5], "best": 0.5,
        "settings": {"train.lr": 0.001}, "training": None,
    }  # fmt: skip
    store.study("tiny", {"preset": preset, "suites": {}, "tuned": {"soft_moe": tuned}})
    text = dict(methods(load_study(store)))["Training"]
    assert "Fixed settings: weight decay 0.05, label smoothing 0.1," in text
    assert "learning rate 0.004" not in text
    assert "batches of 64" not in text
    assert "importance" not in text
    assert "Settings tuned for each router: train.lr; the tuning table" in text
    assert "soft_moe had train.batch_size = 32." in text


def test_a_part_without_routers_uses_those_of_the_preset(lab, store):
    """`--set` turns the first part of the preset smoke into such a part."""
    lab(suites=()).study_of({"soft_moe": [0.5]})
    preset = load_preset("tiny").model_dump(mode="json")
    preset["routers"] = ["soft_moe", "dense"]
    preset["parts"] = [{"routers": None, "set": {"train.epochs": 0.1}, "sweep": {}}]
    store.study("tiny", {"preset": preset, "suites": {}})
    assert "soft_moe and dense had train.epochs = 0.1." in methods_markdown(load_study(store))


def test_a_study_of_bare_layers_has_no_training(lab, store):
    made = lab(suites=("throughput",))
    made.layer("soft_moe", {}, 0)
    said = dict(methods(load_study(store)))
    assert "Training" not in said
    assert said["Routers"] == "Routers compared: soft_moe."
