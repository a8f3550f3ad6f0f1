"""Routers that span the batch follow their definitions: in training, and by threshold."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from routers import (
    LOSSES,
    Batch,
    Parts,
    RequestError,
    RouterContext,
    Site,
    build_router,
    finish_step,
    step_stats,
)

GROUPS, TOKENS, EXPERTS, DIM = 3, 8, 4, 6


def build(name, **options):
    return build_router(name, dim=DIM, num_experts=EXPERTS, **options)


def logits_of(seed):
    return torch.randn(GROUPS, TOKENS, EXPERTS, generator=torch.Generator().manual_seed(seed))


def rows(tensor):
    return tensor.detach().double().numpy().reshape(-1, EXPERTS)


def pairs(routing):
    return rows(routing.combine_weights()), rows(routing.dispatch_tensor().sum(-1)) != 0


def step(router, routing):
    finish_step([router], [step_stats(routing)])


def test_all_pairs_compete_and_the_logit_is_the_weight():
    router, logits = build("expert_race", top_k=1.5), logits_of(0)
    routing = router.train().allocate(logits)
    weights, taken = pairs(routing)
    flat = rows(logits)
    lowest = np.sort(flat.flatten())[::-1][int(1.5 * GROUPS * TOKENS) - 1]
    assert (taken == (flat >= lowest)).all()
    np.testing.assert_allclose(weights, np.where(flat >= lowest, flat, 0), atol=1e-6)
    step(router, routing)
    assert router.threshold.item() == pytest.approx(0.95 + 0.05 * lowest, rel=1e-5)
    weights, taken = pairs(router.eval().allocate(logits))
    assert (taken == (flat >= router.threshold.item())).all()


def test_expert_threshold_warms_up_with_expert_choice_then_uses_the_last_threshold():
    router = build("expert_threshold", expansion=4, warmup_steps=2, decay=0.9).train()
    share, mean = GROUPS * TOKENS // 4, np.zeros(EXPERTS)
    for update in range(4):
        logits = logits_of(update)
        routing = router.allocate(logits)
        flat = rows(logits)
        weights, taken = pairs(routing)
        column = np.sort(flat, axis=0)[::-1]
        if update < 2:
            want = flat >= column[share - 1]
            assert (taken.sum(0) == share).all()
        else:
            want = flat >= mean / (1 - 0.9**update)
        assert (taken == want).all()
        np.testing.assert_allclose(weights, np.where(want, 1 / (1 + np.exp(-flat)), 0), atol=1e-6)
        mean = 0.9 * mean + 0.1 * column[share - 1]
        step(router, routing)
        np.testing.assert_allclose(router.threshold.numpy(), mean, atol=1e-6)
        assert router.updates == update + 1
    taken = pairs(router.eval().allocate(logits))[1]
    assert (taken == (flat >= mean / (1 - 0.9**4))).all()


def test_slack_bounds_the_load_of_an_expert_threshold():
    router = build("expert_threshold", expansion=4, warmup_steps=0, slack=0.5).train()
    share = GROUPS * TOKENS // 4
    router.updates.fill_(10**6)
    router.threshold.copy_(torch.tensor([-9.0, 9.0, 0.0, 0.0]))  # all tokens, none, about half
    logits = logits_of(1)
    taken = pairs(router.allocate(logits))[1]
    assert taken.sum(0)[0] == int(share * 1.5)
    assert taken.sum(0)[1] == int(share * 0.5)
    best = np.argsort(-rows(logits)[:, 1])[: int(share * 0.5)]
    assert taken[best, 1].all()
    assert pairs(router.eval().allocate(logits))[1].sum(0)[:2].tolist() == [GROUPS * TOKENS, 0]


def test_an_expert_threshold_averages_the_quantiles_of_micro_batches():
    router = build("expert_threshold", expansion=4, decay=0.5).train()
    parts = [step_stats(router.allocate(logits_of(seed))) for seed in (0, 1)]
    finish_step([router], [{name: parts[0][name] + parts[1][name] for name in parts[0]}])
    share = GROUPS * TOKENS // 4
    each = [np.sort(rows(logits_of(seed)), axis=0)[::-1][share - 1] for seed in (0, 1)]
    np.testing.assert_allclose(router.threshold.numpy(), np.mean(each, axis=0) / 2, atol=1e-6)


def test_diffmoe_trains_by_batch_expert_choice_and_trains_its_predictor():
    router = build("diffmoe", capacity_factor=1.5).train()
    x = torch.randn(GROUPS, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    routing = router(x)
    gates = rows(routing.gates)
    share = int(1.5 * GROUPS * TOKENS / EXPERTS)
    want = gates >= np.sort(gates, axis=0)[::-1][share - 1]
    weights, taken = pairs(routing)
    assert (taken == want).all()
    np.testing.assert_allclose(weights, np.where(want, gates, 0), atol=1e-6)
    predicted = router.predictor(x)
    target = torch.from_numpy(want).view_as(predicted).float()
    torch.testing.assert_close(routing.loss, F.binary_cross_entropy_with_logits(predicted, target))
    probable = np.sort(rows(predicted.sigmoid()), axis=0)[::-1][share - 1]
    step(router, routing)
    np.testing.assert_allclose(router.threshold.numpy(), 0.05 * probable, rtol=1e-4)


def test_the_predictor_sends_no_gradient_to_the_tokens():
    x = torch.randn(GROUPS, TOKENS, DIM, requires_grad=True)
    build("diffmoe").train()(x).loss.backward()
    assert x.grad is None


def test_diffmoe_evaluates_by_threshold_or_by_count():
    x = torch.randn(GROUPS, TOKENS, DIM, generator=torch.Generator().manual_seed(2))
    router = build("diffmoe").eval()
    router.threshold.copy_(torch.tensor([0.4, 0.5, 0.55, 0.6]))
    fired = rows(router.predictor(x).sigmoid()) > router.threshold.double().numpy()
    routing = router(x)
    assert (pairs(routing)[1] == fired).all()
    counting = build("diffmoe", evaluation="count").eval()
    counting.load_state_dict(router.state_dict())
    gates = rows(routing.gates)
    taken = pairs(counting(x))[1]
    assert 0 < fired.sum() < fired.size
    for e in range(EXPERTS):
        best = np.argsort(-gates[:, e], kind="stable")[: fired[:, e].sum()]
        assert sorted(np.flatnonzero(taken[:, e])) == sorted(best)


def test_a_threshold_decides_on_each_token_independently():
    x = torch.randn(GROUPS, TOKENS, DIM)
    for name in ("expert_race", "expert_threshold", "diffmoe"):
        router = build(name).eval()
        router.threshold.fill_(0.1)
        if name == "expert_threshold":
            router.updates.fill_(10**6)
        together = router(x).combine_weights()
        alone = torch.cat([router(group).combine_weights() for group in x.split(1)])
        torch.testing.assert_close(together, alone)


def test_the_expert_race_loss_equals_a_loop():
    router = build("expert_race", top_k=2.0).train()
    logits = logits_of(4)
    routing = dataclasses.replace(router.allocate(logits), logits=logits)
    loss = LOSSES.get("router_similarity").target(
        routing, Batch(torch.zeros(GROUPS, 1), torch.zeros(GROUPS, dtype=torch.long))
    )
    p = torch.softmax(logits, -1).double().numpy().reshape(-1, EXPERTS)
    d = pairs(routing)[1].astype(float)
    shared, both = p.T @ p, d.T @ d
    total = 0.0
    off = both.sum() - np.trace(both)
    for e in range(EXPERTS):
        for f in range(EXPERTS):
            scale = EXPERTS / np.trace(both) if e == f else (EXPERTS**2 - EXPERTS) / off
            total += scale * both[e, f] * shared[e, f]
    assert off > 0
    assert loss.item() == pytest.approx(total / len(p), rel=1e-5)
    assert not math.isnan(loss.item())


def per_layer(**options):
    torch.manual_seed(0)
    return build("expert_race", site=Site(classes=5), per_layer_weight=0.3, **options).train()


def test_the_per_layer_loss_equals_a_loop():
    """Each token predicts the class of its image, by a linear map of GELU(xU + b)."""
    router, x = per_layer(), torch.randn(1, GROUPS * TOKENS, DIM)
    labels = torch.tensor([4, 0, 2])
    batch = Batch(torch.zeros(GROUPS, 1), labels)
    loss = router.own_loss(router(x), batch)
    inner, head, total = router.gate.body[0], router.head, 0.0
    for place, token in enumerate(x[0]):
        hidden = F.gelu(inner.weight @ token + inner.bias)
        scores = (head.weight @ hidden + head.bias).detach().double().numpy()
        total += np.log(np.exp(scores).sum()) - scores[labels[place // TOKENS]]
    assert loss.item() == pytest.approx(0.3 * total / (GROUPS * TOKENS), rel=1e-5)
    loss.backward()
    assert all(p.grad.any() for p in (head.weight, inner.weight))
    assert router.gate.outer.grad is None


def test_the_per_layer_head_changes_no_routing_and_is_inactive_in_evaluation():
    x, plain = torch.randn(1, TOKENS, DIM), build("expert_race").train()
    router = per_layer()
    plain.load_state_dict(router.state_dict(), strict=False)
    torch.testing.assert_close(router(x).combine_tensor(), plain(x).combine_tensor())
    batch = Batch(torch.zeros(1, 1), torch.tensor([1]))
    assert plain.own_loss(plain(x), batch) is None
    assert router.eval().own_loss(router(x), batch) is None


def test_padding_does_not_count_in_the_per_layer_loss():
    router, mask = per_layer(), torch.arange(TOKENS) < torch.tensor([[8], [3], [0]])
    x, labels = torch.randn(GROUPS, TOKENS, DIM), torch.tensor([1, 3, 0])
    batch = Batch(torch.zeros(GROUPS, 1), labels)
    flat, own = x.view(1, -1, DIM), mask.view(1, -1)
    loss = router.own_loss(router(flat, RouterContext(mask=own)), batch)
    routing = router(x[mask].unsqueeze(0))
    each = F.cross_entropy(router.head(routing.hidden[0]), labels[[0] * 8 + [1] * 3])
    torch.testing.assert_close(loss, 0.3 * each)
    nothing = router(flat, RouterContext(mask=torch.zeros_like(own)))
    assert router.own_loss(nothing, batch) == 0


@pytest.mark.parametrize("images", [(1, 1, 1), (1, 2), (2, 1)])
def test_the_per_layer_loss_of_differently_padded_parts_is_that_of_the_batch(images):
    router, mask = per_layer(), torch.arange(TOKENS) < torch.tensor([[8], [3], [0]])
    x, labels = torch.randn(GROUPS, TOKENS, DIM), torch.tensor([1, 3, 0])

    def loss_of(part, parts=None):
        batch = Batch(torch.zeros(len(part), 1), labels[part], parts)
        context = RouterContext(mask=mask[part].view(1, -1))
        return router.own_loss(router(x[part].view(1, -1, DIM), context), batch)

    def gradients():
        return [p.grad.clone() for p in (*router.head.parameters(), *router.gate.body.parameters())]

    whole = loss_of(torch.arange(GROUPS))
    whole.backward()
    want, parts, total = gradients(), Parts(), 0.0
    router.zero_grad()
    cuts = [(part, len(part) / GROUPS) for part in torch.arange(GROUPS).split(images)]
    for part, share in cuts:
        parts.begin(share, adding=True)
        loss_of(part, parts)
    parts.end_first_pass()
    for part, share in cuts:
        parts.begin(share, adding=False)
        loss = share * loss_of(part, parts)
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, whole.detach())
    torch.testing.assert_close(gradients(), want)


def test_a_per_layer_loss_of_zero_weight_needs_no_sums_over_micro_batches():
    router, parts = build("expert_race", site=Site(classes=5), per_layer_weight=0).train(), Parts()
    parts.begin(0.5, adding=False)  # no first pass: asking for a sum would be an error
    batch = Batch(torch.zeros(1, 1), torch.tensor([1]), parts)
    assert router.own_loss(router(torch.randn(1, TOKENS, DIM)), batch) is None


def test_a_per_layer_loss_without_a_hidden_vector_or_classes_is_refused():
    with pytest.raises(RequestError, match="the affinity 'linear' has none: use 'gelu_mlp'"):
        per_layer(affinity="linear")
    with pytest.raises(RequestError, match="classes, whose number is not known"):
        build("expert_race", per_layer_weight=0.3)


def test_batch_expert_choice_learns_the_threshold_that_it_uses_in_evaluation():
    router = build("softmax_expert_choice", evaluation="threshold", decay=0.9).train()
    mean, slots = np.zeros(EXPERTS), GROUPS * TOKENS // EXPERTS
    for update in range(3):
        logits = logits_of(update).flatten(0, 1).unsqueeze(0)
        gates = rows(logits.softmax(-1))
        routing = router.allocate(logits)
        lowest = np.sort(gates, axis=0)[::-1][slots - 1]
        assert (pairs(routing)[1] == (gates >= lowest)).all()
        mean = 0.9 * mean + 0.1 * lowest
        step(router, routing)
        np.testing.assert_allclose(router.threshold.numpy(), mean, rtol=1e-5)
    want = gates >= mean / (1 - 0.9**3)
    for x in (logits, logits.view(GROUPS, TOKENS, EXPERTS)):  # the same in groups of any size
        weights, taken = pairs(router.eval().allocate(x))
        assert (taken == want).all()
        np.testing.assert_allclose(weights, np.where(want, gates, 0), atol=1e-6)
    assert 0 < want.sum() < want.size


def test_expert_choice_averages_the_thresholds_of_all_groups_of_micro_batches():
    routers = [build("softmax_expert_choice", evaluation="threshold").train() for _ in range(2)]
    logits = logits_of(5)
    step(routers[0], routers[0].allocate(logits))
    parts = [step_stats(routers[1].allocate(part)) for part in logits.split([1, 2])]
    finish_step([routers[1]], [{name: parts[0][name] + parts[1][name] for name in parts[0]}])
    torch.testing.assert_close(routers[1].threshold, routers[0].threshold)


@pytest.mark.parametrize("wrong", [{"capacity_factor": None}, {"eval_capacity_factor": 2.0}])
def test_a_threshold_without_a_training_capacity_is_refused(wrong):
    with pytest.raises(RequestError, match="learns the lowest gate that a capacity lets in"):
        build("softmax_expert_choice", evaluation="threshold", **wrong)
