"""Choice by biased scores follows its definitions, by loops over tokens and experts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routers import RequestError, build_router, finish_step, step_stats

TOKENS, EXPERTS, DIM = 12, 8, 6


def logits_of(seed, groups=2, tokens=TOKENS, experts=EXPERTS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups, tokens, experts, generator=generator) * 2


def build(name, **options):
    return build_router(name, dim=DIM, num_experts=EXPERTS, capacity_factor=None, **options)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def weights_of(routing):
    return routing.combine_weights().detach().double().numpy()


def top(values, k):
    return sorted(range(len(values)), key=lambda e: (-values[e], e))[:k]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_bias_affects_the_choice_and_not_the_weights(training, score, k, normalize):
    router = build("loss_free", top_k=k, score=score, normalize=normalize, route_scale=2.5)
    router.train(training)
    router.bias.copy_(torch.linspace(-0.4, 0.4, EXPERTS))
    logits = logits_of(k)
    got = weights_of(router.allocate(logits))
    want = np.zeros_like(got)
    for g, t in np.ndindex(2, TOKENS):
        own = logits[g, t].numpy()
        scores = sigmoid(own) if score == "sigmoid" else softmax(own)
        chosen = top(scores + router.bias.double().numpy(), k)
        total = scores[chosen].sum() if normalize and k > 1 else 1
        want[g, t, chosen] = 2.5 * scores[chosen] / total
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_sigmoid_top_k_is_normalised_by_default_and_scaled():
    router = build("sigmoid_top_k", top_k=2, route_scale=2.5)
    weights = weights_of(router.allocate(logits_of(0)))
    np.testing.assert_allclose(weights.sum(-1), 2.5, rtol=1e-6)
    assert router.bias.eq(0).all()


def test_a_single_sigmoid_choice_keeps_its_score_so_that_the_gate_learns():
    logits = logits_of(0).requires_grad_()
    routing = build("sigmoid_top_k", top_k=1).allocate(logits)
    best = logits.detach().max(-1).values.sigmoid()
    torch.testing.assert_close(routing.weights.squeeze(-1).detach(), best)
    routing.weights.sum().backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("centre", [False, True])
def test_the_bias_moves_by_the_sign_of_the_missing_load(centre):
    router = build("loss_free", top_k=2, update_rate=0.01, centre=centre).train()
    router.bias.copy_(torch.linspace(0, 0.1, EXPERTS))
    before = router.bias.clone()
    routing = router.allocate(logits_of(3))
    load = np.bincount(routing.experts.flatten().numpy(), minlength=EXPERTS)
    finish_step([router], [step_stats(routing)])
    change = 0.01 * np.sign(load.mean() - load)
    if centre:
        change = change - change.mean()
    np.testing.assert_allclose((router.bias - before).numpy(), change, atol=1e-7)


def test_dropped_choices_count_in_the_load():
    router = build_router("loss_free", dim=DIM, num_experts=4, top_k=1, capacity_factor=0.5)
    logits = torch.zeros(1, 8, 4)
    logits[..., 0] = 5  # all want expert 0, which has room for one
    routing = router.allocate(logits)
    assert routing.expert_load().tolist() == [[1, 0, 0, 0]]
    finish_step([router], [step_stats(routing)])
    np.testing.assert_allclose(router.bias.numpy(), [-1e-3, 1e-3, 1e-3, 1e-3], rtol=1e-6)


def test_an_even_load_changes_nothing():
    router = build_router("loss_free", dim=DIM, num_experts=4, top_k=1, capacity_factor=None)
    routing = router.allocate(torch.eye(4).unsqueeze(0) * 3)
    finish_step([router], [step_stats(routing)])
    assert router.bias.eq(0).all()


def test_micro_batches_update_the_bias_as_the_whole_batch_does():
    logits = logits_of(5, groups=6)
    whole, cut = (build("loss_free", top_k=2, update_rate=0.1) for _ in range(2))
    finish_step([whole], [step_stats(whole.allocate(logits))])
    parts = [step_stats(cut.allocate(part)) for part in logits.split(2)]
    finish_step([cut], [{name: sum(part[name] for part in parts) for name in parts[0]}])
    assert whole.bias.equal(cut.bias)
    assert whole.bias.abs().sum() > 0


@pytest.mark.parametrize(
    ("group_score", "best"),
    [("top2", lambda k, m: 2), ("max", lambda k, m: 1), ("top_k", lambda k, m: k // m)],
)
@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("groups", "kept", "k"), [(4, 2, 3), (2, 1, 2), (4, 2, 4)])
def test_a_token_chooses_only_within_its_best_groups(group_score, best, score, groups, kept, k):
    options = {"groups": groups, "groups_kept": kept, "group_score": group_score, "score": score}
    router = build("group_limited_top_k", top_k=k, normalize=False, **options)
    router.bias.copy_(torch.linspace(0.3, -0.3, EXPERTS))
    logits, size = logits_of(7), EXPERTS // groups
    got = weights_of(router.allocate(logits))
    want = np.zeros_like(got)
    for g, t in np.ndindex(2, TOKENS):
        own = logits[g, t].numpy()
        scores = sigmoid(own) if score == "sigmoid" else softmax(own)
        biased = scores + router.bias.double().numpy()
        sums = [
            np.sort(biased[n * size : (n + 1) * size])[::-1][: best(k, kept)].sum()
            for n in range(groups)
        ]
        allowed = [e for n in top(sums, kept) for e in range(n * size, (n + 1) * size)]
        chosen = sorted(allowed, key=lambda e: -biased[e])[:k]
        want[g, t, chosen] = scores[chosen]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups = 3 does not divide num_experts = 8"),
        ({"groups": 2, "groups_kept": 4}, "groups_kept = 4 is more than groups = 2"),
        ({"groups": 4, "groups_kept": 1, "top_k": 3}, "top_k = 3 is more than the 2 experts"),
        (
            {"groups": 4, "groups_kept": 4, "top_k": 2, "group_score": "top_k"},
            "at least groups_kept",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        build("group_limited_top_k", **options)


@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.0, 0.5]))
def test_the_price_is_a_quantile_of_the_logits(seed, k, ema):
    router = build("quantile_balancing", top_k=k, ema=ema).train()
    start = torch.linspace(-0.5, 0.5, EXPERTS)
    router.bias.copy_(start)
    logits = logits_of(seed)
    routing = router.allocate(logits)
    rows = logits.double().numpy().reshape(-1, EXPERTS)
    beta = start.double().numpy()
    for row, chosen in zip(rows, routing.experts.reshape(-1, k).tolist(), strict=True):
        assert chosen == top(row.astype(np.float32) - start.numpy(), k)
    alpha = np.sort(rows - beta, axis=1)[:, ::-1][:, k]
    column = np.sort(rows - alpha[:, None], axis=0)[::-1]
    price = column[len(rows) * k // EXPERTS]
    new = ema * beta + (1 - ema) * price
    finish_step([router], [step_stats(routing)])
    np.testing.assert_allclose(router.bias.numpy(), new - new.mean(), atol=1e-5)
    gates = logits.softmax(-1).gather(-1, routing.experts)
    torch.testing.assert_close(routing.weights, gates)


def test_quantile_balancing_balances_a_lopsided_gate():
    router = build("quantile_balancing", top_k=2).train()
    logits = logits_of(1, groups=16) + torch.linspace(-4, 4, EXPERTS)
    loads = []
    for _ in range(20):
        routing = router.allocate(logits)
        loads.append(routing.expert_load().sum(0).float())
        finish_step([router], [step_stats(routing)])
    assert loads[0].std() / loads[0].mean() > 1
    assert loads[-1].std() / loads[-1].mean() < 0.2
    frozen = router.bias.clone()
    router.eval().allocate(logits)
    assert router.bias.equal(frozen)
