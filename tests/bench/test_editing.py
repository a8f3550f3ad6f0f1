"""The suite on a real training: it reports the edits really made, and its numbers add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.data import Split
from bench.measure.subjects import TrainedTrial
from bench.model import moe_layers
from bench.model.moe import reweighted
from bench.train.loop import train_trial
from bench.train.outcome import read_outcome
from suites import Array, build_suite

CPU = torch.device("cpu")


@pytest.fixture
def marked(tiny_dataset):
    """The stripes, half of them with an attribute that the images do not show."""
    splits = {
        name: Split(split.images, split.labels, torch.arange(len(split)) // 4 % 2)
        for name, split in tiny_dataset.splits.items()
    }
    return replace(tiny_dataset, splits=splits, attributes=("first", "second"))


@pytest.mark.parametrize("groups", ["image", "batch"])
@pytest.mark.parametrize("name", ["softmax_token_choice", "soft_moe", "mumoe", "dense"])
@pytest.mark.slow
def test_reported_accuracies_are_those_of_the_edited_model(
    name, groups, tiny_spec, marked, tmp_path
):
    router = {"num_slots": 2} if name == "soft_moe" else {}
    spec = tiny_spec(name, epochs=1, router=router, model={"layers": "all", "groups": groups})
    train_trial(spec, marked, CPU, tmp_path)
    subject = TrainedTrial(spec, marked, read_outcome(tmp_path), CPU)
    results = list(build_suite("editing", max_edits=2).measure(subject))
    arrays = [result for result in results if isinstance(result, Array)]
    factors = {a.layer: torch.tensor(a.values) for a in arrays if a.name == "expert_factors"}
    accuracies = {a.where["edit"]: a.values for a in arrays if a.name == "subgroup_accuracy"}

    split = marked.splits["test"]
    layers = list(moe_layers(subject.model).values())
    assert set(factors) == set(range(len(layers)))
    assert set(accuracies) == ({"before", "after"} if layers else {"before"})
    for edit, accuracy in accuracies.items():
        with reweighted(layers, factors if edit == "after" else {}):
            batches = subject.run(subject.model, "test")
            answers = torch.cat([batch.logits for batch in batches]).argmax(-1)
        right = (answers == split.labels).double().numpy()
        for label, value in np.ndindex(accuracy.shape):
            chosen = (split.labels == label) & (split.attribute == value)
            assert accuracy[label, value] == pytest.approx(right[chosen.numpy()].mean())


def test_the_subject_gives_the_attribute_of_each_image_or_none_if_there_is_none(
    tiny_spec, tiny_dataset, marked, tmp_path
):
    spec = tiny_spec()
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    trained = TrainedTrial(spec, marked, outcome, CPU)
    assert trained.attribute_names == ("first", "second")
    assert torch.equal(trained.attribute("val"), marked.splits["val"].attribute)
    untold = TrainedTrial(spec, tiny_dataset, outcome, CPU)
    assert untold.attribute("val") is None
    reason = build_suite("editing").applies_to(untold)
    assert reason == "the data set has no protected attribute"
