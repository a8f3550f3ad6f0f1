"""Routers follow their definitions: capacity, noise, who chooses, and what gives the weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routers import (
    ROUTERS,
    Baseline,
    RequestError,
    RouterContext,
    build_router,
    list_routers,
)
from routers.transport import sinkhorn_plan, sparse_plan

IN_LAYERS = "attentive"  # reads the experts: see tests/bench/model/test_attentive.py
LEARNED = [
    name
    for name in list_routers()
    if not issubclass(ROUTERS.get(name).target, Baseline) and name != IN_LAYERS
]
STUDY = [
    "softmax_token_choice",
    "sinkhorn_token_choice",
    "softmax_expert_choice",
    "sinkhorn_expert_choice",
    "sparsity_constrained_expert_choice",
    "soft_moe",
]


def build(name, **options):
    return build_router(name, dim=16, num_experts=4, tokens=12, **options)


def test_the_six_routers_and_the_nulls_are_registered():
    assert set(STUDY) < set(list_routers())
    assert {"dense", "dense_params", "random", "hash", "frozen"} < set(list_routers())


@given(
    st.integers(1, 400),
    st.integers(1, 64),
    st.integers(1, 8),
    st.floats(0.05, 8.0),
)
def test_capacity_is_the_definition(tokens, experts, k, factor):
    router = build_router("hash", dim=4, num_experts=experts, capacity_factor=factor)
    want = min(tokens, math.ceil(factor * tokens * k / experts - 1e-9))
    assert router.capacity(torch.empty(1, tokens, experts), k) == want
    assert 1 <= want <= tokens


@pytest.mark.parametrize("name", ["softmax_token_choice", "softmax_expert_choice"])
def test_evaluation_has_its_own_capacity(name):
    router = build(name, capacity_factor=1.0, eval_capacity_factor=2.0)
    tokens = torch.randn(2, 12, 16)
    assert router(tokens).num_slots == 3
    assert router.eval()(tokens).num_slots == 6
    unlimited = build(name, capacity_factor=None)
    assert unlimited(tokens).dropped_share() == 0
    assert unlimited.eval()(tokens).dropped_share() == 0


def test_noise_is_scaled_by_the_experts_and_only_added_in_training():
    tokens = torch.randn(400, 12, 16)
    noisy = build("softmax_token_choice", noise_std=2.0)
    routing = noisy(tokens, RouterContext(generator=torch.Generator().manual_seed(1)))
    noise = routing.noisy_logits - routing.logits
    assert routing.noise_std == 0.5
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    # The gates are those of the clean logits, the choices and weights those of the noisy ones.
    torch.testing.assert_close(routing.gates, routing.logits.softmax(-1))
    best = routing.noisy_logits.softmax(-1).max(-1)
    assert routing.first_choice().equal(best.indices)
    torch.testing.assert_close(routing.weights[..., 0], best.values)
    soft = build("soft_moe", noise_std=2.0)
    routing = soft(tokens)
    assert (routing.noisy_logits - routing.logits).std().item() == pytest.approx(2.0, rel=0.02)
    for router in (noisy, soft):
        routing = router.eval()(tokens)
        assert routing.noise_std == 0
        assert routing.noisy_logits is routing.logits


@pytest.mark.parametrize("name", STUDY[:4])
def test_noise_comes_from_the_generator_of_the_context(name):
    router = build(name, noise_std=1.0)
    tokens = torch.randn(3, 12, 16)

    def noise(seed):
        routing = router(tokens, RouterContext(generator=torch.Generator().manual_seed(seed)))
        return routing.noisy_logits

    assert noise(3).equal(noise(3))
    assert not noise(3).equal(noise(4))


@pytest.mark.parametrize("name", ["sinkhorn_token_choice", "sinkhorn_expert_choice"])
def test_sinkhorn_chooses_by_the_noisy_plan_and_weights_by_the_clean_gates(name):
    router = build(name, noise_std=4.0)
    routing = router(torch.randn(2, 12, 16))
    plan = sinkhorn_plan(routing.noisy_logits).plan
    gates = routing.logits.softmax(-1)
    if name == "sinkhorn_token_choice":
        assert routing.first_choice().equal(plan.argmax(-1))
        want = gates.gather(-1, routing.experts)
    else:
        by_expert = plan.transpose(1, 2)
        assert routing.tokens.sort().values.equal(by_expert.topk(3).indices.sort().values)
        want = gates.transpose(1, 2).gather(-1, routing.tokens)
    torch.testing.assert_close(routing.weights, want)
    assert routing.diagnostics["marginal_error"].shape == (2,)


def test_sinkhorn_token_choice_prioritises_tokens_by_the_plan():
    routing = build("sinkhorn_token_choice", capacity_factor=0.5)(torch.randn(4, 12, 16))
    best = sinkhorn_plan(routing.logits).plan.max(-1)
    for g in range(4):
        for expert in range(4):
            queue = (best.indices[g] == expert).nonzero().flatten()
            served = queue[best.values[g, queue].argsort(descending=True)][:2]
            kept = queue[routing.kept[g, queue, 0]]
            assert set(kept.tolist()) == set(served.tolist())


def test_the_sparse_router_chooses_by_score_and_weights_by_gate():
    router = build("sparsity_constrained_expert_choice")
    routing = router(torch.randn(2, 12, 16))
    gates = routing.logits.softmax(-1)
    plan = sparse_plan(gates, 3, gamma=router.gamma, iterations=router.iterations)
    by_expert = plan.scores.transpose(1, 2)
    assert routing.tokens.sort().values.equal(by_expert.topk(3).indices.sort().values)
    torch.testing.assert_close(routing.weights, gates.transpose(1, 2).gather(-1, routing.tokens))
    with pytest.raises(RequestError, match="noise_std"):
        build("sparsity_constrained_expert_choice", noise_std=1.0)


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "slots"),
    [(12, 4, 1.0, 3), (12, 4, 2.0, 6), (4, 8, 1.0, 1), (49, 8, 1.0, 6), (50, 8, 1.0, 6)],
)
def test_soft_moe_has_the_number_of_slots_of_its_definition(tokens, experts, factor, slots):
    router = build_router(
        "soft_moe", dim=8, num_experts=experts, tokens=tokens, capacity_factor=factor
    )
    assert router(torch.randn(1, tokens, 8)).num_slots == slots


def test_soft_moe_names_a_missing_requirement():
    with pytest.raises(RequestError, match="num_slots"):
        build_router("soft_moe", dim=8, num_experts=4)
    assert build_router("soft_moe", dim=8, num_experts=4, num_slots=5).slots == 5


@pytest.mark.parametrize("k", [1, 3])
def test_nulls_combine_with_equal_weights(k):
    tokens = torch.randn(5, 12, 16)
    for name in ("random", "hash"):
        router = build(name, top_k=k, capacity_factor=None)
        routing = router(tokens)
        assert not list(router.parameters())
        torch.testing.assert_close(routing.weights, torch.full_like(routing.weights, 1 / k))
        assert (routing.gates != 0).sum(-1).eq(k).all()
        assert router.eval()(tokens).experts.equal(router(tokens).experts)


def test_random_redraws_in_training_and_hash_never_does():
    tokens = torch.randn(40, 12, 16)
    random, hashed = build("random"), build("hash")
    assert not random(tokens).experts.equal(random(tokens).experts)
    share = random(tokens).demand().sum(0) / (40 * 12)
    assert (share - 0.25).abs().max() < 0.1
    assert hashed(tokens).experts.equal(hashed(torch.randn_like(tokens)).experts)
    assert (hashed(tokens).expert_load() == 3).all()


def test_random_in_eval_mode_is_even_seeded_and_independent_of_the_batch():
    tokens = torch.randn(100, 12, 16)
    router = build("random", capacity_factor=None).eval()
    routed = router(tokens).experts
    share = torch.bincount(routed.flatten(), minlength=4) / routed.numel()
    assert (share - 0.25).abs().max() < 0.05
    assert router(tokens[7:8]).experts.equal(routed[7:8])
    other = build("random", capacity_factor=None, seed=1).eval()(tokens).experts
    assert (other == routed).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_frozen_keeps_its_gate():
    assert not any(p.requires_grad for p in build("frozen").parameters())


@pytest.mark.parametrize("affinity", ["linear", "cosine", "mlp", "soft"])
@pytest.mark.parametrize("name", STUDY)
def test_any_affinity_works_with_any_allocation(name, affinity):
    router = build(name, affinity=affinity)
    routing = router(torch.randn(2, 12, 16))
    routing.combine(routing.dispatch(torch.randn(2, 12, 16))).sum().backward()
    assert all(p.grad is not None for p in router.parameters())


@pytest.mark.parametrize("name", LEARNED)
def test_a_router_computes_in_float32_under_autocast(name):
    router = build(name).eval()
    tokens = torch.randn(2, 12, 16)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(tokens)
    assert routing.gates.dtype == torch.float32
    assert routing.combine_tensor().equal(router(tokens).combine_tensor())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_kk": 2}, "did you mean 'top_k'"),
        ({"top_k": 0}, "greater than or equal to 1"),
        ({"top_k": 5}, "more than num_experts = 4"),
        ({"capacity_factor": -1.0}, "greater than 0"),
        ({"capacity_factor": float("inf")}, "finite"),
        ({"renormalize": True}, "top_k of 2"),
        ({"affinity": "cosin"}, "did you mean 'cosine'"),
        ({"affinity": "mlp", "affinity_options": {"hiden": 3}}, "did you mean 'hidden'"),
    ],
)
def test_a_wrong_hyper_parameter_is_refused_with_the_right_name(options, message):
    with pytest.raises(RequestError, match=message):
        build("softmax_token_choice", **options)


def test_an_unknown_router_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match="did you mean 'soft_moe'"):
        build("softmoe")
