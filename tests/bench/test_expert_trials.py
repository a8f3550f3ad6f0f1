"""Losses of single experts, for routers that ask for them: values, FLOPs, resumed trainings."""

import pytest
import torch
from torch.nn import functional as F

from bench.compute import FlopCounter, count_flops, estimate
from bench.data import DataShape, TrainingBatches
from bench.model import losses_for, moe_layers, trial_model
from bench.train import step
from bench.train.loop import TrainingInterrupted, train_trial
from bench.train.micro_batches import why_not_cut
from bench.train.step import Trainer, resolve_budget
from routers import Router

CPU = torch.device("cpu")
MIXER = {"update_gate_every": 3, "images": 12}


@pytest.fixture
def spec(tiny_spec):
    return tiny_spec("mixer", router=MIXER, model={"layers": "all"}, label_smoothing=0.1)


def trainer(spec, dataset):
    return Trainer(spec, dataset, TrainingBatches(spec, dataset, CPU), CPU, 6)


def test_the_loss_of_an_expert_is_that_of_a_model_with_no_other_expert_in_the_layer(
    spec, tiny_dataset
):
    model = trial_model(spec, tiny_dataset).train()
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    layer = moe_layers(model)["blocks.1.mlp"]
    losses = losses_for(model, layer, images, labels, spec.train)
    assert losses.shape == (12, 4)
    assert model.training
    stacks = {name: stack.clone() for name, stack in layer.experts.named_parameters()}
    for expert in range(4):
        with torch.no_grad():
            for name, stack in layer.experts.named_parameters():
                stack.copy_(stacks[name][expert].expand_as(stack))  # so every choice is this expert
            logits = model.eval()(images[:12])
        expected = F.cross_entropy(logits, labels[:12], reduction="none", label_smoothing=0.1)
        torch.testing.assert_close(losses[:, expert], expected)


def test_the_cost_of_expert_trials_is_spread_evenly_over_the_steps(spec, tiny_dataset):
    counts = []
    for number in range(4):
        counter = FlopCounter()
        trainer(spec, tiny_dataset).step(number, counter)
        counts.append(counter)
    assert len({counter.total for counter in counts}) == 1
    model = trial_model(spec, tiny_dataset).eval()
    forward = count_flops(model, torch.randn(12, 1, 8, 8)).total
    # Two layers of four experts each; a trial skips one gate and adds a loss.
    assert counts[0].by_kind["trials"] == pytest.approx(2 * 4 * forward / 3, rel=0.02)


def test_a_training_counts_each_expert_trial_once(spec, tiny_dataset, monkeypatch):
    counted = []
    flops = step.trial_flops
    monkeypatch.setattr(step, "trial_flops", lambda *of: counted.append(flops(*of)) or counted[-1])
    training = trainer(spec, tiny_dataset)
    for number in range(2):
        counter = FlopCounter()
        training.step(number, counter)
        assert counted == [counter.by_kind["trials"]]


def test_the_estimate_includes_expert_trials_and_is_exact(spec, tiny_dataset):
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    estimated = estimate(spec, DataShape(tiny_dataset.image_shape, 4, 96))
    assert estimated.exact
    assert estimated.budget == resolve_budget(spec, tiny_dataset, batches, CPU)


def test_routers_that_ask_get_expert_losses_every_few_steps(spec, tiny_dataset, monkeypatch):
    seen = []
    own = trial_model(spec, tiny_dataset)
    kind = type(moe_layers(own)["blocks.0.mlp"].router)
    assert kind.after_step is not Router.after_step
    monkeypatch.setattr(kind, "after_step", lambda _, stats: seen.append(stats))
    training = trainer(spec, tiny_dataset)
    for number in range(6):
        training.step(number)
    assert ["expert_losses" in stats for stats in seen] == 2 * [*4 * [False], *2 * [True]]
    assert all(stats["contexts"].shape == (16, 16) for stats in seen)


def test_an_interrupted_training_gives_the_same_bits(spec, tiny_dataset, tmp_path):
    trial = {"spec": spec, "dataset": tiny_dataset, "device": CPU}
    whole = train_trial(**trial, folder=tmp_path / "whole")
    reached = []
    with pytest.raises(TrainingInterrupted):
        train_trial(
            **trial,
            folder=tmp_path / "parts",
            on_progress=lambda done, *_: reached.append(done),
            stop=lambda: reached[-1] > 3,
        )
    torch.rand(7)
    parts = train_trial(**trial, folder=tmp_path / "parts")
    assert 3 < reached[-1] < whole.steps
    assert [each.sha256 for each in parts.snapshots] == [each.sha256 for each in whole.snapshots]


def test_a_batch_cannot_be_split_into_micro_batches(spec, tiny_dataset):
    model = trial_model(spec, tiny_dataset)
    assert "the router MixER is told the loads" in (why_not_cut(spec, model, 2) or "")
