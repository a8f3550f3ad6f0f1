"""Derived trials: what they take from their parent, what they train, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.compute.estimates import estimate
from bench.data import DataShape
from bench.data.batches import TrainingBatches
from bench.data.files import read_tensors
from bench.execute.failures import rehearse
from bench.model.build import (
    TRANSFORMS,
    Parent,
    register_transform,
    starting_model,
    trial_model,
)
from bench.plan.fingerprint import Fingerprints
from bench.train.loop import train_trial
from bench.train.step import resolve_budget
from routers.errors import BenchError, RequestError

CPU = torch.device("cpu")
SHAPE = DataShape((1, 8, 8), 4, 96)


@pytest.fixture
def child(tiny_spec):
    """Return a trial with a two-layer gate, derived from one with a linear gate."""

    def make(transform: str = "distill", **own):
        recipe = {"epochs": 4, "lr": 5e-3, **own}
        spec = tiny_spec("softmax_token_choice", router={"affinity": "mlp"}, **recipe)
        return spec.derived(tiny_spec("softmax_token_choice", **recipe), transform)

    return make


@pytest.fixture
def trained(tiny_dataset):
    """Return a parent's model whose weights are no longer the initial ones."""

    def make(spec) -> nn.Module:
        model = trial_model(spec.parent, tiny_dataset)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        return model

    return make


def shared(one: dict, other: dict) -> set[str]:
    return {name for name in one if name in other and one[name].shape == other[name].shape}


def in_gates(names) -> bool:
    return all(".router." in name for name in names)


def test_distilling_takes_the_parents_weights_and_trains_only_the_gates(child, trained):
    spec = child()
    parent = trained(spec)
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    model = starting_model(spec, SHAPE, Parent(parent))
    fresh = trial_model(spec, SHAPE).state_dict()
    common = shared(model.state_dict(), before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in common else fresh[name])
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if ".router." in name}
    assert learning >= model.state_dict().keys() - common
    assert all(torch.equal(before[name], t) for name, t in parent.state_dict().items())


def test_fine_tuning_takes_the_parents_weights_and_trains_everything(child, trained):
    spec = child("fine_tune")
    parent = trained(spec)
    model = starting_model(spec, SHAPE, Parent(parent))
    initial = parent.state_dict()
    common = shared(model.state_dict(), initial)
    assert all(torch.equal(model.state_dict()[name], initial[name]) for name in common)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_parent_without_common_weights_is_refused_with_counts():
    small, large = nn.Linear(2, 3), nn.Linear(4, 5)
    for name in ("distill", "fine_tune"):
        with pytest.raises(RequestError, match=r"none of the child's 2 .*its parent's 2"):
            TRANSFORMS.get(name).target(small, large)


def test_distilling_a_model_without_trainable_gates_is_refused():
    with pytest.raises(RequestError, match=r"has none that learns.*'fine_tune'"):
        TRANSFORMS.get("distill").target(nn.Linear(2, 3), nn.Linear(2, 3))


def test_a_derived_trial_needs_the_weights_of_its_parent(child, tiny_dataset, tmp_path):
    with pytest.raises(BenchError, match="its parent's model"):
        train_trial(child(), tiny_dataset, CPU, tmp_path)


def test_training_changes_only_what_is_not_frozen(child, trained, tiny_dataset, tmp_path):
    spec = child(ema=0.9)
    parent = trained(spec)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path, parent=Parent(parent))
    initial = parent.state_dict()
    weights = read_tensors(outcome.checkpoint, outcome.sha256)
    first = outcome.snapshots[0]
    start = read_tensors(tmp_path / first.file, first.sha256)
    changed = {name for name in weights if not torch.equal(weights[name], start[name])}
    assert changed
    assert in_gates(changed)
    assert not changed & shared(weights, initial)
    assert all(torch.equal(start[name], initial[name]) for name in shared(start, initial))
    tuned = child("fine_tune")
    outcome = train_trial(tuned, tiny_dataset, CPU, tmp_path / "tuned", parent=Parent(parent))
    weights = read_tensors(outcome.checkpoint, outcome.sha256)
    assert any(not torch.equal(weights[name], initial[name]) for name in shared(weights, initial))


def test_the_flops_of_a_step_depend_on_what_it_trains(child, trained, tiny_spec, tiny_dataset):
    spec = child()
    batches = TrainingBatches(spec, tiny_dataset, CPU)

    def budget(of, parent=None):
        return resolve_budget(of, tiny_dataset, batches, CPU, parent and Parent(parent))

    scratch = spec.model_copy(update={"parent": None, "transform": None})
    parent = trained(spec)
    frozen, whole = budget(spec, parent), budget(scratch)
    tuned = budget(child("fine_tune"), parent)
    dense = tiny_spec("dense", epochs=4, lr=5e-3)
    assert frozen.flops_budget == whole.flops_budget == budget(dense).flops_budget
    assert tuned.own.flops == whole.own.flops
    # No weight gradients, and none at all below the first gate: less than two thirds of a step.
    assert whole.own.flops / 3 < frozen.own.flops < whole.own.flops * 2 / 3
    assert frozen.steps > whole.steps
    assert frozen.steps * frozen.own.flops == pytest.approx(frozen.flops_budget, rel=0.05)


def test_the_estimate_of_a_derived_trial_knows_what_is_frozen(child, trained, tiny_dataset):
    spec = child()
    estimated = estimate(spec, SHAPE, SHAPE)
    counted = resolve_budget(
        spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, Parent(trained(spec))
    )
    assert estimated.budget == counted
    tuned = estimate(child("fine_tune"), SHAPE, SHAPE)
    assert estimated.parameters == tuned.parameters
    assert estimated.training_bytes < tuned.training_bytes


def test_a_parent_with_other_classes_lacks_weights_that_are_needed(tiny_spec):
    parent = tiny_spec("soft_moe")
    spec = tiny_spec("soft_moe").derived(parent, "distill")
    with pytest.raises(RequestError, match=r"parameters besides the gates.*2 of .*'head\.weight'"):
        starting_model(spec, SHAPE, Parent(trial_model(parent, replace(SHAPE, num_classes=7))))
    with pytest.raises(RequestError, match=r"parameters besides the gates have no counterpart"):
        estimate(spec, SHAPE, replace(SHAPE, num_classes=7))


def test_a_rehearsal_refuses_a_transform_that_does_not_fit(child, tiny_spec, tiny_dataset):
    class Stripes:
        def get(self, config):
            return tiny_dataset

    rehearse(child(), Stripes(), CPU)
    without_gate = tiny_spec("hash").derived(tiny_spec("soft_moe"), "distill")
    with pytest.raises(RequestError, match="has none that learns"):
        rehearse(without_gate, Stripes(), CPU)


def test_a_user_can_register_a_transform(child):
    @register_transform("halve_of_the_test")
    def halve(parent, child):
        """Take the head with its weights halved."""
        with torch.no_grad():
            child.head.weight.copy_(parent.head.weight / 2)

    try:
        spec = child("halve_of_the_test")
        parent = trial_model(spec.parent, SHAPE)
        model = starting_model(spec, SHAPE, Parent(parent))
        assert torch.equal(model.head.weight, parent.head.weight / 2)
        parts = Fingerprints().trial(spec, lambda _: "data").parts
        assert ("transform", "halve_of_the_test") in {(part.kind, part.name) for part in parts}
    finally:
        TRANSFORMS.discard("halve_of_the_test")


def test_a_fingerprint_covers_the_parent_and_the_transform(child):
    def value(spec, data="data"):
        return Fingerprints().trial(spec, lambda _: data)

    spec = child()
    scratch = value(spec.model_copy(update={"parent": None, "transform": None}))
    longer = spec.parent.train.model_copy(update={"epochs": 9})
    other = spec.derived(spec.parent.model_copy(update={"train": longer}), "distill")
    fingerprint = value(spec)
    assert fingerprint.parent == value(spec.parent).value
    assert scratch.parent is None
    assert {part.kind for part in scratch.parts} < {part.kind for part in fingerprint.parts}
    values = [fingerprint, scratch, value(other), value(child("fine_tune")), value(spec, "other")]
    assert len({each.value for each in values}) == len(values)
    moved = spec.parent.data.model_copy(update={"data_dir": "/there"})
    elsewhere = spec.derived(spec.parent.model_copy(update={"data": moved}), "distill")
    assert value(elsewhere).value == fingerprint.value
    assert Fingerprints().layer(spec).value == Fingerprints().layer(other).value
