from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from routers import TokenChoiceRouting
from suites import Array, build_suite
from suites.balance import LayerCounts, gini, spread

COUNTS = arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 1000)).filter(np.any)


@given(COUNTS)
def test_gini_is_its_double_sum(counts):
    differences = np.abs(counts[:, None] - counts[None, :]).sum()
    assert gini(counts) == pytest.approx(differences / (2 * len(counts) * counts.sum()), abs=1e-12)


@given(COUNTS)
def test_statistics_of_a_spread_stay_within_their_bounds(counts):
    experts = len(counts)
    got = spread(counts)
    assert -1e-12 <= got["gini"] <= (experts - 1) / experts + 1e-12
    assert -1e-12 <= got["entropy"] <= 1 + 1e-12
    assert 0 <= got["cv"] <= (experts - 1) ** 0.5 + 1e-9
    assert 1 - 1e-12 <= got["max_over_mean"] <= experts + 1e-12
    assert 0 <= got["dead"] <= experts - 1


@given(COUNTS, st.randoms(use_true_random=False), st.integers(2, 50))
def test_a_spread_does_not_know_experts_by_number_nor_the_size_of_the_split(counts, random, factor):
    shuffled = counts.copy()
    random.shuffle(shuffled)
    assert spread(shuffled) == pytest.approx(spread(counts), abs=1e-9)
    assert spread(factor * counts) == pytest.approx(spread(counts), abs=1e-9)


def test_statistics_of_a_spread_by_hand():
    got = spread(np.array([1, 0, 300, 99]))
    assert got["cv"] == pytest.approx(np.std([1, 0, 300, 99]) / 100)
    assert got["max_over_mean"] == 3.0
    assert got["gini"] == pytest.approx((-3 * 0 - 1 * 1 + 1 * 99 + 3 * 300) / (4 * 400))
    assert got["entropy"] == pytest.approx(stats.entropy([1, 0, 300, 99], base=2) / 2)
    assert got["dead"] == 1.0  # 1 of a mean of 100 is not below 1 %; 0 is.


def test_every_expert_is_dead_if_there_are_no_tokens():
    assert spread(np.zeros(5)) == {"dead": 5.0}


def by_brute_force(routings):
    """Compute balance by definition from the materialised tensors of all groups."""
    dispatch = torch.cat([(r.dispatch_tensor() != 0).any(-1) for r in routings]).numpy()
    combine = torch.cat([r.combine_tensor().double().sum(-1) for r in routings]).numpy()
    load, per_token = dispatch.sum((0, 1)), dispatch.sum(2)
    importance = combine.sum((0, 1))
    return load, {
        "load_cv": load.std() / load.mean(),
        "load_max_over_mean": load.max() / load.mean(),
        "uncovered": (per_token == 0).mean(),
        "experts_per_token_mean": per_token.mean(),
        "experts_per_token_min": per_token.min(),
        "experts_per_token_max": per_token.max(),
        "importance_cv": importance.std() / importance.mean(),
        "capacity": np.average(
            [r.num_slots for r in routings], weights=[len(r.gates) for r in routings]
        ),
    }


def test_balance_of_every_router_equals_a_count_on_materialised_tensors(router, trial):
    subject = trial(router, snapshots=[])
    results = list(build_suite("balance").measure(subject))
    batches = list(subject.run(subject.model, "test"))
    for layer in (0, 1):
        load, expected = by_brute_force([batch.routings[layer] for batch in batches])
        if router in ("smear", "mixer"):  # only one expert runs on an image
            expected["capacity"] /= subject.num_experts
        here = {r.name: r for r in results if r.layer == layer}
        got = {name: here[name].value for name in expected}
        assert got == pytest.approx(expected, abs=1e-6)
        assert np.array_equal(here["load"].values, load)
        assert {r.split for r in here.values()} == {"test"}


def test_results_do_not_depend_on_the_batch_size(trial):
    def measured(size):
        subject = trial("softmax_token_choice", batch_size=size, snapshots=[])
        results = build_suite("balance").measure(subject)
        return {(r.name, r.layer): r.value for r in results if not isinstance(r, Array)}

    assert measured(7) == pytest.approx(measured(40), abs=1e-9)


def test_two_choices_with_a_capacity_by_hand():
    # Three tokens choose experts (0, 1), (0, 1), (0, 2); each of the four experts has one slot.
    experts = torch.tensor([[[0, 1], [0, 1], [0, 2]]])
    gates = torch.full((1, 3, 4), 0.25)
    weights = torch.tensor([[[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]]])
    counts = LayerCounts(4)
    counts.add(TokenChoiceRouting.from_choices(gates, experts, weights, 1))
    got = {metric.name: metric.value for metric in counts.metrics()}
    assert counts.counts["demand"].tolist() == [3, 2, 1, 0]
    assert counts.counts["load"].tolist() == [1, 1, 1, 0]
    assert counts.coverage.tolist() == [1, 1, 1, 0, 0]
    assert got["dropped"] == 0.5
    assert got["uncovered"] == pytest.approx(1 / 3)
    assert got["demand_max_over_mean"] == 2.0
    assert got["load_dead"] == 1.0
    assert got["importance_cv"] == pytest.approx(np.std([0.5, 0.25, 0.25, 0]) / 0.25)
    assert got["capacity"] == 1.0


def test_values_that_are_constant_by_construction_are_marked(trial):
    def marked(router):
        results = list(build_suite("balance").measure(trial(router)))
        return {r.name for r in results if r.where == {"constant": True}}

    assert marked("softmax_token_choice") == set()
    experts_choose = {"load", "load_cv", "demand_gini", "dropped", "experts_per_token_mean"}
    of_tokens = {"uncovered", "experts_per_token_min", "experts_per_token_max"}
    never = {"importance_cv", "capacity"}
    names = marked("softmax_expert_choice")
    assert experts_choose <= names
    assert not (of_tokens | never) & names
    for router in ("soft_moe", "softmax_mixture"):
        names = marked(router)
        assert experts_choose | of_tokens <= names
        assert not never & names


def test_values_marked_as_constant_do_not_depend_on_the_tokens(router, trial):
    def constants(seed):
        torch.manual_seed(seed)
        subject = trial(router, snapshots=[])
        for parameter in subject.model.parameters():
            parameter.data.normal_()
        results = build_suite("balance").measure(subject)
        metrics = [r for r in results if not isinstance(r, Array) and r.where.get("constant")]
        return {(r.name, r.layer): r.value for r in metrics}

    assert constants(0) == constants(1)


def test_a_transport_plan_reports_its_error(trial):
    subject = trial("sinkhorn_token_choice", snapshots=[])
    results = list(build_suite("balance").measure(subject))
    (got,) = [r.value for r in results if r.name == "marginal_error" and r.layer == 0]
    batches = subject.run(subject.model, "test")
    errors = torch.cat([batch.routings[0].diagnostics["marginal_error"] for batch in batches])
    assert got == pytest.approx(float(errors.mean()))


def test_snapshots_are_measured_on_a_part_of_the_validation_split(trial):
    subject = trial("softmax_token_choice")
    results = list(build_suite("balance", snapshot_images=20).measure(subject))
    assert {(r.step, r.split) for r in results} == {(None, "test"), (0, "val"), (30, "val")}
    val = [images for split, images in subject.asked if split == "val"]
    assert val == [16, 16, 16, 16]  # two batches of 16 for each of two snapshots
    at_start = [r for r in results if r.name == "load_cv" and r.step == 0]
    assert {r.layer for r in at_start} == {0, 1, None}


def test_snapshots_are_left_out_if_no_images_are_requested_for_them(trial):
    subject = trial("softmax_token_choice")
    results = list(build_suite("balance", snapshot_images=0).measure(subject))
    assert {r.step for r in results} == {None}


@pytest.mark.parametrize("suite", ["balance", "entropy"])
def test_a_dense_model_is_skipped_with_the_reason(suite, trial):
    assert build_suite(suite).applies_to(trial("dense")) == "the model has no MoE layer"
