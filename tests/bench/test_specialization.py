"""The suite's shortcut gives the result of switching experts off one by one on every image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.measure.subjects import TrainedTrial
from bench.model import moe_layers
from bench.train.loop import train_trial
from bench.train.outcome import read_outcome
from suites import build_suite

CPU = torch.device("cpu")


@pytest.fixture
def trained(tiny_spec, tiny_dataset, tmp_path):
    def make(name, groups):
        """Make two layers of experts, so strong that each of them matters."""
        model = {"groups": groups, "layers": "all"}
        router = {"num_slots": 2} if name == "soft_moe" else {}
        spec = tiny_spec(name, epochs=1, router=router, model=model, experts={"num_experts": 8})
        train_trial(spec, tiny_dataset, CPU, tmp_path)
        subject = TrainedTrial(spec, tiny_dataset, read_outcome(tmp_path), CPU)
        for layer in moe_layers(subject.model).values():
            for parameter in layer.experts.parameters():
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        return subject

    return make


def brute_force(subject, layer):
    """Return (E, classes): each class's accuracy with all experts minus that without each one."""
    correct = []
    for expert in (None, *range(subject.num_experts)):
        factors = torch.ones(subject.num_experts)
        if expert is not None:
            factors[expert] = 0
        batches = list(subject.run(subject.model, "test"))
        answers = [subject.answers(subject.model, b.images, {layer: factors}) for b in batches]
        labels = torch.cat([batch.labels for batch in batches])
        right = (torch.cat(answers).argmax(-1) == labels).double()
        correct.append(torch.stack([right[labels == c].mean() for c in range(subject.num_classes)]))
    return torch.stack([correct[0] - without for without in correct[1:]]).numpy()


@pytest.mark.parametrize("groups", ["image", "batch", 8])
@pytest.mark.parametrize(
    "name",
    [
        "softmax_token_choice",
        "softmax_expert_choice",
        "softmax_mixture",
        "mumoe",
        "soft_moe",
        "random",
    ],
)
@pytest.mark.slow
def test_the_result_equals_running_every_image_without_each_expert(trained, name, groups):
    subject = trained(name, groups)
    measured = list(build_suite("specialization").measure(subject))
    for layer in range(len(moe_layers(subject.model))):
        (changes,) = [r.values for r in measured if (r.name, r.layer) == ("accuracy_change", layer)]
        np.testing.assert_allclose(changes, brute_force(subject, layer), atol=1e-6)
        assert changes.any()


def test_images_that_do_not_use_an_expert_are_not_run_without_it(trained):
    subject = trained("softmax_token_choice", "image")
    (passes,) = [
        r.value
        for r in build_suite("specialization").measure(subject)
        if (r.name, r.layer) == ("passes", None)
    ]
    assert 0 < passes < 1
