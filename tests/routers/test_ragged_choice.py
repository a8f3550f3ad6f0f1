"""Routers whose tokens take different numbers of experts follow their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from routers import Batch, RequestError, build_router, finish_step, step_stats

GROUPS, TOKENS, EXPERTS, DIM = 2, 9, 5, 6


def batch_of(images):
    return Batch(images, torch.zeros(len(images), dtype=torch.long))


def logits_of(seed, experts=EXPERTS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(GROUPS, TOKENS, experts, generator=generator) * 2


def build(name, experts=EXPERTS, **options):
    return build_router(name, dim=DIM, num_experts=experts, **options)


def arrays(routing):
    d, c = routing.dispatch_tensor().sum(-1), routing.combine_tensor().sum(-1)
    return d.double().numpy() != 0, c.detach().double().numpy()


@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_top_p_takes_experts_up_to_the_one_that_crosses_p(seed, p):
    logits = logits_of(seed)
    taken, weights = arrays(build("top_p", p=p).allocate(logits))
    gates = logits.softmax(-1).numpy()
    for g, t in np.ndindex(GROUPS, TOKENS):
        total, chosen = np.float32(0), []
        for e in sorted(range(EXPERTS), key=lambda e: -gates[g, t, e]):
            chosen.append(e)
            total += gates[g, t, e]
            if total > p:
                break
        assert sorted(chosen) == np.flatnonzero(taken[g, t]).tolist()
        np.testing.assert_allclose(weights[g, t, chosen], gates[g, t, chosen], rtol=1e-5)


def test_a_top_p_of_1_takes_all_experts_and_a_tiny_one_takes_one():
    assert arrays(build("top_p", p=1.0).allocate(logits_of(0)))[0].all()
    assert (arrays(build("top_p", p=1e-9).allocate(logits_of(0)))[0].sum(-1) == 1).all()


def test_relu_is_weighted_by_the_positive_logits():
    logits = logits_of(1)
    taken, weights = arrays(build("relu").train().allocate(logits))
    np.testing.assert_allclose(weights, logits.clamp(min=0).numpy(), atol=1e-7)
    assert (taken == (logits > 0).numpy()).all()
    off = build("relu").eval()
    assert off.own_loss(off.allocate(logits), batch_of(logits)) is None


def test_the_sparsity_loss_is_weighted_by_the_load():
    router, logits = build("relu", target_top_k=2.0).train(), logits_of(2)
    router.strength.fill_(0.3)
    positive = logits.clamp(min=0).double().numpy().reshape(-1, EXPERTS)
    t = len(positive)
    want = (
        0.3
        * EXPERTS
        / (2.0 * t**2)
        * sum((positive[:, e] > 0).sum() * positive[:, e].sum() for e in range(EXPERTS))
    )
    loss = router.own_loss(router.allocate(logits), batch_of(logits))
    assert loss.item() == pytest.approx(want, rel=1e-5)


def test_the_loss_strength_follows_the_sparsity_of_the_whole_model():
    dense, sparse = torch.ones(1, 4, EXPERTS), -torch.ones(1, 4, EXPERTS)
    cases = [((dense, dense), 1.2), ((sparse, sparse), 1 / 1.2), ((dense, sparse), 1.2)]
    for layers, factor in cases:
        routers = [build("relu", target_top_k=2.0).train() for _ in layers]
        stats = [
            step_stats(router.allocate(logits))
            for router, logits in zip(routers, layers, strict=True)
        ]
        finish_step(routers, stats)
        for router in routers:
            assert router.strength.item() == pytest.approx(1e-8 * factor, rel=1e-6)


def test_the_loss_strength_is_divided_when_sparsity_is_on_target():
    router = build("relu", experts=4, target_top_k=2.0).train()
    logits = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(1, 6, 4)
    finish_step([router], [step_stats(router.allocate(logits))])
    assert router.strength.item() == pytest.approx(1e-8 / 1.2, rel=1e-6)


def test_dynmoe_compares_each_score_with_the_experts_own_threshold():
    router = build("dynmoe").train()
    x = torch.randn(GROUPS, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.thresholds.copy_(torch.linspace(-0.3, 0.3, EXPERTS))
    router.mask[3] = False
    taken, weights = arrays(router(x))
    cosine = F.cosine_similarity(x.unsqueeze(2), router.vectors.view(1, 1, EXPERTS, DIM), dim=-1)
    over = cosine.sigmoid() > router.thresholds.sigmoid()
    want = (over & router.mask).numpy()
    assert (taken == want).all()
    number = want.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights, want / np.maximum(number, 1), atol=1e-6)
    assert 0 < want.sum() < want.size


def test_a_token_without_an_expert_gets_the_best_one_only_in_evaluation():
    router = build("dynmoe")
    with torch.no_grad():
        router.thresholds.fill_(5.0)
    x = torch.randn(GROUPS, TOKENS, DIM)
    assert not arrays(router.train()(x))[0].any()
    routing = router.eval()(x)
    taken, weights = arrays(routing)
    assert (taken.argmax(-1) == routing.logits.argmax(-1).numpy()).all()
    np.testing.assert_allclose(weights.sum(-1), 1)


def test_the_comparison_passes_its_gradient_only_at_chosen_pairs():
    router, logits = build("dynmoe").train(), logits_of(3).requires_grad_()
    routing = router.allocate(logits)
    taken = routing.taken()
    routing.combine_weights().sum().backward()
    slope = logits.detach().sigmoid() * (1 - logits.detach().sigmoid())
    want = torch.where(taken, slope / taken.sum(-1, keepdim=True).clamp(min=1), 0)
    torch.testing.assert_close(logits.grad, want)
    assert router.thresholds.grad.abs().sum() > 0


def test_the_dynmoe_loss_by_hand():
    router = build("dynmoe", experts=3).train()
    with torch.no_grad():
        router.vectors.copy_(torch.eye(3, DIM) * torch.tensor([[1.0], [2.0], [3.0]]))
        router.vectors[1, 0] = 2.0  # at 45° to the first
    router.mask[2] = False
    loss = router(torch.randn(1, 4, DIM)).loss
    lengths = (1 + math.sqrt(8) + 3) / 3
    gram = math.sqrt(2 * 0.5)  # two entries of cos 45°, squared and summed
    assert loss.item() == pytest.approx(0.01 * (gram + lengths), rel=1e-5)


def test_dynmoe_adds_and_removes_experts():
    router = build("dynmoe", experts=3, adapt_every=2).train()
    x = torch.randn(1, 6, DIM)
    router.mask[2] = False
    with torch.no_grad():
        router.thresholds.copy_(torch.tensor([5.0, 5.0, 0.0]))
    for _ in range(2):
        finish_step([router], [step_stats(router(x))])
    # No expert was chosen, so none is removed; tokens without an expert restore the masked one.
    assert router.mask.tolist() == [True, True, True]
    direction = x.sum((0, 1)) / x.sum((0, 1)).norm()
    torch.testing.assert_close(router.vectors[2].detach(), direction)
    assert router.steps_since == 0
    with torch.no_grad():
        router.thresholds.copy_(torch.tensor([-5.0, 5.0, 5.0]))
    for _ in range(2):
        finish_step([router], [step_stats(router(x))])
    assert router.mask.tolist() == [True, False, False]


def code_product(values, expert):
    bits = len(values)
    on = [(expert >> (bits - 1 - j)) & 1 for j in range(bits)]
    return math.prod(v if bit else 1 - v for v, bit in zip(values, on, strict=True))


@pytest.mark.parametrize("experts", [4, 5])
def test_dselect_multiplies_smooth_bits(experts):
    router = build("dselect_k", experts=experts, top_k=2, gamma=0.8, entropy_weight=0.1).train()
    bits = math.ceil(math.log2(experts))
    x = torch.randn(GROUPS, TOKENS, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        router.gate.weight[: 2 * bits] *= 20
    routing = router(x)
    raw = router.gate(x).detach().double().numpy()
    got, loss = arrays(routing)[1], 0.0
    for g, t in np.ndindex(GROUPS, TOKENS):
        z, w = raw[g, t, : 2 * bits].reshape(2, bits), raw[g, t, 2 * bits :]
        share = np.exp(w) / np.exp(w).sum()
        inside = np.clip(z, -0.4, 0.4)
        step = -2 * (inside / 0.8) ** 3 + 1.5 * inside / 0.8 + 0.5
        q = np.array([[code_product(s, e) for e in range(experts)] for s in step])
        np.testing.assert_allclose(got[g, t], share @ q, atol=1e-5)
        loss += -0.1 * (q * np.log(q + 1e-6)).sum()
        if experts == 5:
            loss += (1 / q.sum(-1)).sum()
    batch = batch_of(x)
    assert router.own_loss(routing, batch).item() == pytest.approx(loss, rel=1e-4)
    assert router.eval().own_loss(router(x), batch) is None


def test_settled_bits_choose_at_most_k_experts():
    router = build("dselect_k", experts=4, top_k=2).eval()
    with torch.no_grad():
        router.gate.weight.mul_(0)
        router.gate.bias.copy_(torch.tensor([9.0, -9, -9, 9, 0, 0]))  # experts 2 and 1, evenly
    taken, weights = arrays(router(torch.randn(1, 3, DIM)))
    np.testing.assert_allclose(weights, np.broadcast_to([0, 0.5, 0.5, 0], weights.shape))
    assert taken.sum(-1).tolist() == [[2, 2, 2]]


def best_by_enumeration(scores, slots):
    tokens, experts = scores.shape
    each = itertools.product(range(experts), repeat=tokens)
    return max(
        sum(scores[t, e] for t, e in enumerate(a))
        for a in each
        if all(a.count(e) == slots for e in range(experts))
    )


@given(st.integers(0, 50))
def test_base_assigns_evenly_for_the_highest_sum(seed):
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
    router = build("base", experts=3).train()
    routing = router.allocate(logits)
    experts = routing.experts.squeeze(-1)
    for group in range(2):
        assert np.bincount(experts[group].numpy(), minlength=3).tolist() == [2, 2, 2]
        total = logits[group].gather(1, experts[group].unsqueeze(1)).sum().item()
        assert total == pytest.approx(
            best_by_enumeration(logits[group].double().numpy(), 2), abs=1e-5
        )
    torch.testing.assert_close(routing.weights, logits.sigmoid().gather(-1, routing.experts))
    greedy = router.eval().allocate(logits).experts.squeeze(-1)
    assert greedy.equal(logits.argmax(-1))


def test_no_expert_gets_more_than_the_rounded_up_share_of_tokens():
    logits = torch.randn(3, 10, 4) + torch.tensor([5.0, 0, 0, 0])
    load = build("base", experts=4).train().allocate(logits).expert_load()
    assert load.sum(1).tolist() == [10, 10, 10]
    assert load.max() == 3


def test_a_masked_pair_is_not_processed():
    logits = torch.randn(1, 4, 2)
    logits[0, :3, 0] = -torch.inf
    routing = build("base", experts=2).train().allocate(logits)
    taken = routing.taken()
    assert not taken[0, :3, 0].any()
    assert taken.sum() == 3  # one token finds its only expert full


@given(st.integers(1, 30), st.integers(2, 6), st.integers(1, 2), st.integers(0, 2**31))
def test_forced_takes_turns_whatever_the_logits(tokens, experts, k, seed):
    router = build_router("forced", dim=DIM, num_experts=experts, top_k=k, capacity_factor=None)
    logits = torch.randn(1, tokens, experts, generator=torch.Generator().manual_seed(seed))
    load = router.allocate(logits).expert_load()[0]
    assert load.max() - load.min() <= 1
    assert load.sum() == tokens * k


def test_a_skew_increases_the_load_of_the_first_expert_by_that_factor():
    router = build_router("forced", dim=DIM, num_experts=8, top_k=2, skew=3.0, capacity_factor=None)
    load = router.allocate(torch.zeros(1, 64, 8)).expert_load()[0].tolist()
    assert load[0] == 3 * 64 * 2 // 8
    assert max(load[1:]) - min(load[1:]) <= 1
    assert sum(load) == 128
    with pytest.raises(RequestError, match="the largest skew is 4"):
        build_router("forced", dim=DIM, num_experts=8, top_k=2, skew=5.0).allocate(
            torch.zeros(1, 64, 8)
        )
