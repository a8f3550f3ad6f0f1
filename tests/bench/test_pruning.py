"""Pruned models: which experts a rule keeps, what happens to weights, and what they compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.measure.running import run_suite
from bench.measure.subjects import TrainedTrial
from bench.model import Calibration, moe_layers, prune, shares_by
from bench.model.build import Parent, starting_model, trial_model
from bench.model.calibration import Use
from bench.model.pruning import RULES, linear_cka
from bench.train.loop import train_trial
from bench.train.outcome import read_outcome
from routers import ROUTERS, Baseline
from routers.errors import RequestError, UndefinedError
from suites.pruning import RULES as NAMES
from suites.pruning import halves

CPU = torch.device("cpu")
UNDEFINED = {"hash", "forced", "dselect_k", "group_limited_top_k", "moe_plus_plus"}


def names() -> list[str]:
    own = [entry for entry in ROUTERS.entries() if entry.target.__module__.startswith("routers.")]
    return [entry.name for entry in own if not issubclass(entry.target, Baseline)]


@pytest.fixture
def model(tiny_spec, tiny_dataset):
    """Build a model with that many experts, in eval mode."""

    def make(name="softmax_mixture", experts=4, others=None, **router):
        more = {"num_experts": experts, **(others or {})}
        spec = tiny_spec(name, router=router, experts=more)
        return trial_model(spec, tiny_dataset).eval()

    return make


def chosen(*kept):
    return [torch.eye(4)[list(kept)]]


def layer_of(model):
    (layer,) = moe_layers(model).values()
    return layer


def calibration(model, dataset, start=None, **more):
    return Calibration(model, lambda: start or model, dataset, 16, **more)


def used(model, dataset, **use):
    """Return a calibration that has seen this use of the experts."""
    made = calibration(model, dataset)
    made.__dict__["uses"] = [Use(**use)]
    return made


@torch.no_grad()
def outputs(model):
    return model(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_removing_an_expert_that_no_token_takes_changes_nothing(model):
    options = {"top_k": 2, "capacity_factor": None}
    parent = model("sigmoid_top_k", **options)
    layer_of(parent).router.bias[:] = torch.tensor([0.0, 9.0, 9.0, 0.0])
    child = model("sigmoid_top_k", experts=2, **options)
    prune(parent, child, chosen(1, 2))
    torch.testing.assert_close(outputs(child), outputs(parent), rtol=0, atol=0)
    prune(parent, child, chosen(0, 2))
    assert not torch.equal(outputs(child), outputs(parent))


@torch.no_grad()
@pytest.mark.parametrize("rule", ["merge_weights", "merge_outputs"])
def test_merging_identical_experts_of_a_mixture_changes_nothing(model, tiny_dataset, rule):
    parent, child = model(), model(experts=2)
    layer = layer_of(parent)
    for weight in [*layer.experts.parameters(), *layer.router.parameters()]:
        weight.copy_(torch.randn_like(weight))
        weight[2:] = weight[:2].clone()
    shares = shares_by(rule, calibration(parent, tiny_dataset), 2)
    assert torch.equal(shares[0], torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]))
    prune(parent, child, shares)
    torch.testing.assert_close(outputs(child), outputs(parent), rtol=1e-4, atol=1e-4)


def test_keeping_all_experts_copies_the_model(model, tiny_dataset):
    parent, child = model(), model()
    for name in RULES:
        if name != "prune_count":  # in a mixture every expert gets every token
            (shares,) = shares_by(name, calibration(parent, tiny_dataset), 4)
            assert torch.equal(shares, torch.eye(4)), name
    prune(parent, child, [shares])
    state = child.state_dict()
    assert all(torch.equal(old, state[name]) for name, old in parent.state_dict().items())


def test_buffers_of_experts_are_pruned_with_them(model):
    parent, child = model("dynmoe"), model("dynmoe", experts=2)
    router = layer_of(parent).router
    router.mask[:] = torch.tensor([True, False, False, True])
    router.chosen_since[:] = torch.tensor([5, 6, 7, 8])
    prune(parent, child, [torch.tensor([[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]])])
    merged = layer_of(child).router
    assert merged.mask.tolist() == [False, True]
    assert merged.chosen_since.tolist() == [13, 13]
    torch.testing.assert_close(merged.vectors[1], router.vectors[[0, 3]].mean(0))


def test_an_expert_keeps_its_own_slots(model):
    parent = model("soft_moe", num_slots=3)
    child = model("soft_moe", experts=2, num_slots=3)
    prune(parent, child, chosen(1, 3))
    before, after = (layer_of(each).router.gate.vectors for each in (parent, child))
    assert torch.equal(after, before[[3, 4, 5, 9, 10, 11]])


@torch.no_grad()
def test_gate_change_measures_the_length_of_vectors_and_not_their_direction(model, tiny_dataset):
    now, start = model("softmax_token_choice"), model("softmax_token_choice")
    before, after = (layer_of(each).router.gate.weight for each in (start, now))
    before[:] = 0
    before[:, 0] = torch.tensor([3.0, 3.0, 3.0, 5.0])
    after[:] = 0
    after[:, :2] = torch.tensor([[4.0, 3], [0, 3], [1, 0], [3, 4]])  # changes: 2, 0, 2, 0
    after[0, 2] = 0.1
    seen = calibration(now, tiny_dataset, start)
    assert torch.equal(shares_by("prune_router_change", seen, 2)[0], chosen(0, 2)[0])
    assert torch.equal(shares_by("prune_router_change", seen, 1)[0], chosen(0)[0])


def test_heavy_hitters_are_kept_by_count_or_mass_and_ties_go_to_the_first(model, tiny_dataset):
    parent = model("softmax_token_choice")
    count, mass = torch.tensor([1.0, 9.0, 9.0, 2.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])
    seen = used(parent, tiny_dataset, count=count, mass=mass)
    assert torch.equal(shares_by("prune_count", seen, 1)[0], chosen(1)[0])
    assert torch.equal(shares_by("prune_count", seen, 3)[0], chosen(1, 2, 3)[0])
    assert torch.equal(shares_by("prune_gate_mass", seen, 2)[0], chosen(0, 3)[0])


def test_use_of_experts_is_counted_on_validation_images(model, tiny_dataset):
    parent = model("softmax_token_choice", capacity_factor=0.5)
    (use,) = calibration(parent, tiny_dataset).uses
    assert use.count.sum() == 32 * 16  # each token once, including dropped ones
    assert float(use.mass.sum()) == pytest.approx(32 * 16)
    assert [each.shape for each in use.inputs] == [(16, 16, 16)] * 2


def test_a_random_choice_of_experts_depends_only_on_its_seed(model, tiny_dataset):
    parent = model()
    drawn = [
        shares_by("prune_random", calibration(parent, tiny_dataset, seed=seed), 2)[0]
        for seed in (0, 0, *range(1, 9))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(each.flatten().tolist()) for each in drawn}) > 2
    assert all(each.sum(0).max() == 1 and each.sum() == 2 for each in drawn)


def test_linear_cka_equals_its_definition_by_gram_matrices():
    x = torch.randn(3, 20, 5, dtype=torch.float64)
    x[1] = 2 * x[0] @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0] + 7
    measured = linear_cka(x)
    h = np.eye(20) - 1 / 20
    grams = [h @ (each @ each.T).numpy() @ h for each in x]

    def hsic(a, b):
        return np.trace(a @ b)

    by_hand = [[hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)) for b in grams] for a in grams]
    np.testing.assert_allclose(measured.numpy(), by_hand)
    assert float(measured[0, 1]) == pytest.approx(1)  # invariant to rotation, scale and shift


@pytest.mark.parametrize("name", sorted(UNDEFINED))
def test_a_router_whose_experts_have_an_order_is_not_pruned(model, name):
    parent = model(name)
    with pytest.raises(UndefinedError, match=f"'{name}' cannot be pruned"):
        prune(parent, model(name), [torch.eye(4)])


def test_a_model_that_cannot_be_pruned_says_why(model, tiny_dataset):
    parent = model("softmax_token_choice", others={"name": "mpo"})
    with pytest.raises(UndefinedError, match="'mpo' cannot be pruned: they are not a stack"):
        prune(parent, parent, [torch.eye(4)])
    with pytest.raises(RequestError, match="cannot keep 5 of 4 experts"):
        shares_by("prune_random", calibration(parent, tiny_dataset), 5)
    with pytest.raises(RequestError, match=r"set router\.num_slots to the parent"):
        prune(model("soft_moe", num_slots=2), model("soft_moe", experts=2, num_slots=4), chosen(0))
    with pytest.raises(RequestError, match=r"MoE layers are none"):
        prune(model("dense"), parent, [])
    for name in ("frozen", "random", "soft_moe"):
        with pytest.raises(UndefinedError, match=f"'{name}' has no vector per expert"):
            shares_by("prune_router_change", calibration(model(name), tiny_dataset), 2)
    with pytest.raises(UndefinedError, match="same number of tokens"):
        shares_by("prune_count", calibration(model(), tiny_dataset), 2)


def test_the_suite_measures_every_pruning_rule():
    assert sorted(NAMES) == sorted(RULES)
    assert [halves(number) for number in (1, 2, 5, 8)] == [[], [1], [2, 1], [4, 2, 1]]


@pytest.fixture
def trained(tiny_spec, tiny_dataset, tmp_path):
    def make(name, **own):
        spec = tiny_spec(name, epochs=1, **own)
        outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
        return TrainedTrial(spec, tiny_dataset, outcome, CPU)

    return make


def values(result, name):
    measured = [metric for metric in result.metrics if metric.name == name]
    return {(each.where.get("rule"), each.where["experts"]): each.value for each in measured}


def test_pruned_models_are_measured_by_the_number_of_experts_left(trained):
    subject = trained("softmax_mixture")
    result = run_suite("pruning", {"seconds": 0.01, "min_repeats": 1}, lambda: subject)
    assert result.error is None
    (undefined,) = result.arrays
    assert [str(each).partition(":")[0] for each in undefined.values] == ["prune_count"]
    tops, size, flops = (values(result, f"pruned_{name}") for name in ("top1", "bytes", "flops"))
    assert tops.keys() == size.keys() == flops.keys() == values(result, "pruned_ms").keys()
    rules = set(NAMES) - {"prune_count"}
    assert tops.keys() == {(None, 4)} | {(rule, left) for rule in rules for left in (2, 1)}
    left = subject.pruned("prune_gate_mass", 2)
    assert size[None, 4] == sum(weight.nbytes for weight in subject.model.parameters())
    assert size["merge_weights", 2] == sum(weight.nbytes for weight in left.parameters())
    assert flops[None, 4] > flops["prune_random", 2] > flops["prune_random", 1]
    right = [batch.logits.argmax(-1) == batch.labels for batch in subject.run(left, "test")]
    assert tops["prune_gate_mass", 2] == pytest.approx(float(torch.cat(right).float().mean()))
    half = [tops[rule, 2] for rule in rules - {"prune_random"}]
    assert next(m.value for m in result.metrics if m.name == "half_top1") == np.mean(half)
    changed = [m.where for m in result.metrics if m.where.get("rule") == "prune_router_change"]
    assert {where["reference"] for where in changed} == {"initial weights"}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_router_is_pruned_or_says_why_not(trained, name):
    subject = trained(name)
    rules = [*(set(NAMES) - {"prune_random"}), "prune_random"]
    options = {"rules": rules, "draws": 1, "seconds": 0.01, "min_repeats": 1, "max_repeats": 1}
    result = run_suite("pruning", options, lambda: subject)
    if name in UNDEFINED:
        assert (result.status, result.error and "cannot be pruned" in result.error) == (
            "skipped",
            True,
        )
        return
    assert (result.status, result.error) == ("done", None)
    assert {("prune_random", 2), ("prune_random", 1)} <= values(result, "pruned_top1").keys()


def test_a_pruned_trial_is_trained_saved_loaded_and_pruned_again(tiny_spec, tiny_dataset, tmp_path):
    def train(spec, folder, parent=None):
        outcome = train_trial(spec, tiny_dataset, CPU, tmp_path / folder, parent=parent)
        return TrainedTrial(spec, tiny_dataset, read_outcome(outcome.folder), CPU)

    def fewer(number, parent, transform):
        return tiny_spec(experts={"num_experts": number}, epochs=1).derived(parent, transform)

    whole = train(tiny_spec(epochs=2), "whole")
    half = fewer(2, whole._spec, "prune_router_change")
    parent = Parent(whole.model, whole.start)
    start = starting_model(half, tiny_dataset, parent).eval()
    expected = whole.pruned("prune_router_change", 2)
    assert torch.equal(outputs(start), outputs(expected))
    tuned = train(half, "half", parent)
    assert tuned.derived
    assert torch.equal(outputs(tuned.start()), outputs(expected))
    assert not torch.equal(outputs(tuned.model), outputs(expected))
    one = fewer(1, half, "merge_outputs")
    last = train(one, "one", Parent(tuned.model, tuned.start))
    assert layer_of(last.model).experts.num_experts == 1
    assert torch.equal(outputs(last.start()), outputs(tuned.pruned("merge_outputs", 1)))
