"""Auxiliary losses: by hand, at their extremes, and with gradients that reach the logits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from routers import (
    LOSSES,
    Batch,
    ExpertChoiceRouting,
    MixtureRouting,
    Parts,
    RequestError,
    RouterContext,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
    build_router,
    passes_of,
)

BATCH = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))


def loss(name: str, routing: Routing) -> Tensor:
    return LOSSES.get(name).target(routing, BATCH)


def top_k(logits: Tensor, k: int = 1, noise: Tensor | None = None, std: float = 0.0) -> Routing:
    noisy = logits if noise is None else logits + std * noise
    routing = TokenChoiceRouting.top_k(noisy.softmax(-1), k, None)
    return dataclasses.replace(
        routing, gates=logits.softmax(-1), logits=logits, noisy_logits=noisy, noise_std=std
    )


def gates_routing(gates: list[list[float]]) -> Routing:
    return TokenChoiceRouting.top_k(torch.tensor([gates], dtype=torch.float64), 1, None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_four_losses_are_registered_with_their_sources():
    for name in ("importance", "load", "gshard", "z"):
        assert "arXiv" in LOSSES.get(name).source


def test_importance_by_hand():
    # Sums 1.7, 1.1, 1.2: mean 4/3, variance (0.1344 + 0.0544 + 0.0178) / 3.
    routing = gates_routing([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]])
    sums = [1.7, 1.1, 1.2]
    variance = sum((value - 4 / 3) ** 2 for value in sums) / 3
    assert loss("importance", routing).item() == pytest.approx(variance / (4 / 3) ** 2)


@pytest.mark.parametrize("experts", [1, 2, 5, 10])
def test_importance_by_sample_variance(experts):
    sums = (gates := normal(2, 4, experts).softmax(-1)).sum((0, 1)).numpy()
    expected = np.var(sums, ddof=1) / sums.mean() ** 2 if experts > 1 else 0
    routing = TokenChoiceRouting.top_k(gates, 1, None)
    assert loss("importance_sample", routing).item() == pytest.approx(expected)


@given(st.integers(2, 6), st.integers(1, 2), st.integers(0, 99), st.booleans())
@settings(max_examples=20, deadline=None)
def test_complexity_is_half_the_weighed_importance_and_half_the_load(experts, k, seed, sized):
    k, logits, std = min(k, experts - 1), normal(3, 4, experts, seed=seed), 0.3
    routing = top_k(logits, k, normal(3, 4, experts, seed=seed + 1), std)
    sizes = tuple(2**e * 10 for e in range(experts)) if sized else ()
    routing = dataclasses.replace(routing, expert_sizes=sizes)
    clean, noisy = logits.flatten(0, 1).numpy(), routing.noisy_logits.flatten(0, 1).numpy()
    share = np.exp(clean) / np.exp(clean).sum(1, keepdims=True)
    summed = (share * np.array(sizes or [1])).sum(0)
    tau = np.sort(noisy, 1)[:, -k][:, None]
    chosen = (1 - norm.cdf((tau - clean) / std)).mean(0)
    expected = 0.5 * sum(each.var() / each.mean() ** 2 for each in (summed, chosen))
    assert loss("complexity", routing).item() == pytest.approx(expected)


def test_gshard_by_hand():
    # First choices 0, 2, 2, 0; mean gates 0.425, 0.275, 0.3: 3 · (0.5 · 0.425 + 0.5 · 0.3).
    routing = gates_routing([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]])
    assert loss("gshard", routing).item() == pytest.approx(1.0875)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["softmax_token_choice", "sinkhorn_token_choice", "sigmoid_top_k"])
def test_losses_of_choices_use_the_same_noise_for_choices_and_gates(name, padded):
    options = {"top_k": 1, "noise_std": 8.0, "capacity_factor": None}
    router = build_router(name, dim=6, num_experts=4, **options)
    x, mask = torch.randn(2, 16, 6), None
    if padded:
        mask = torch.arange(16) < torch.tensor([[16], [9]])
    routing = router.train()(x, RouterContext(torch.Generator().manual_seed(0), mask=mask))
    noisy = routing.real(routing.noisy_logits)
    gates = noisy.sigmoid() if name == "sigmoid_top_k" else noisy.softmax(-1)
    gates = gates / gates.sum(-1, keepdim=True)
    chosen = routing.real(routing.sought()).float().mean(0)
    if name != "sinkhorn_token_choice":  # which chooses by a plan of these logits
        assert routing.real(routing.first_choice()).equal(noisy.argmax(-1))
    expected = 4 * (chosen * gates.mean(0)).sum()
    for loss_name in ("gshard", "global_batch"):
        torch.testing.assert_close(loss(loss_name, routing), expected)
    clean = 4 * (chosen * routing.real(routing.gates).mean(0)).sum()
    assert abs(expected - clean) > 1e-3
    still = router.eval()(x, RouterContext(mask=mask))
    assert still.noisy_gates is None


def test_z_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    expected = (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2
    assert loss("z", top_k(logits)).item() == pytest.approx(expected)


def test_the_z_loss_of_soft_logits_covers_all_slots():
    logits = normal(2, 5, 3, 4)
    routing = dataclasses.replace(SoftRouting.from_logits(logits), logits=logits)
    expected = logits.reshape(2, 5, 12).logsumexp(-1).square().mean()
    torch.testing.assert_close(loss("z", routing), expected)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_load_loss_uses_the_probabilities_that_scipy_gives(k):
    logits, noise = normal(2, 6, 4), normal(2, 6, 4, seed=1)
    routing = top_k(logits, k, noise, std=0.4)
    noisy = (logits + 0.4 * noise).numpy()
    threshold = -(-noisy).copy()
    threshold.sort(-1)
    threshold = threshold[..., -k, None]
    mean = (1 - norm.cdf((threshold - logits.numpy()) / 0.4)).mean((0, 1))
    assert loss("load", routing).item() == pytest.approx(mean.var() / mean.mean() ** 2, rel=1e-9)


def test_losses_are_computed_over_the_batch_and_not_per_group():
    # Each group is unbalanced, but the batch is not.
    gates = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]])
    routing = TokenChoiceRouting.top_k(gates, 1, None)
    assert loss("importance", routing).item() == pytest.approx(0)
    assert loss("gshard", routing).item() == pytest.approx(1)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None)
def test_extremes(groups, tokens, experts, seed):
    even = torch.zeros(groups, tokens, experts, dtype=torch.float64)
    assert loss("importance", top_k(even)).item() == pytest.approx(0, abs=1e-12)
    assert loss("gshard", top_k(even)).item() == pytest.approx(1)
    collapsed = even.clone()
    collapsed[..., 0] = 1e3
    assert loss("importance", top_k(collapsed)).item() == pytest.approx(experts - 1)
    assert loss("gshard", top_k(collapsed)).item() == pytest.approx(experts)
    logits = normal(groups, tokens, experts, seed=seed)
    assert 0 <= loss("importance", top_k(logits)).item() <= experts - 1
    assert 0 < loss("gshard", top_k(logits)).item() <= experts
    assert 0 <= loss("load", top_k(logits, 1, logits.flip(-1), 0.1)).item() <= experts - 1


def test_the_load_loss_is_balanced_at_equal_logits():
    even = torch.zeros(1, 5, 4, dtype=torch.float64)
    assert loss("load", top_k(even, 1, normal(1, 5, 4), 0.3)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["importance", "load", "gshard", "z"])
def test_the_gradient_reaches_the_logits_and_reduces_the_loss(name):
    logits = normal(2, 8, 4).requires_grad_()
    noise = normal(2, 8, 4, seed=3)
    value = loss(name, top_k(logits, 2, noise, 0.5))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    assert (gradient != 0).any(-1).all()
    after = loss(name, top_k(logits.detach() - 1e-3 * gradient, 2, noise, 0.5))
    assert after < value


@pytest.mark.parametrize("name", ["importance", "load", "z"])
def test_gradients_are_exact(name):
    noise = normal(1, 4, 3, seed=3)

    def function(logits: Tensor) -> Tensor:
        return loss(name, top_k(logits, 1, noise, 0.5))

    assert torch.autograd.gradcheck(function, normal(1, 4, 3).requires_grad_())


def test_the_load_loss_is_refused_without_noise():
    with pytest.raises(RequestError, match=r"noise_std = 0.0.*router\.noise_std"):
        loss("load", top_k(normal(1, 4, 3)))


@pytest.mark.parametrize("name", ["load", "gshard"])
def test_losses_of_choices_are_refused_if_tokens_do_not_choose(name):
    gates = normal(1, 6, 3).softmax(-1)
    logits = normal(1, 6, 3, 2)
    routings = [
        SoftRouting.from_logits(logits),
        ExpertChoiceRouting.top_tokens(gates, 2),
        MixtureRouting(gates),
    ]
    for routing in routings:
        routing = dataclasses.replace(routing, logits=logits, noisy_logits=logits, noise_std=1.0)
        with pytest.raises(RequestError, match=type(routing).__name__):
            loss(name, routing)
        assert loss("importance", routing).isfinite()


def test_the_z_loss_is_refused_without_logits():
    with pytest.raises(RequestError, match="'z' needs logits"):
        loss("z", gates_routing([[0.5, 0.5]]))


def looped_similarity(gates: Tensor, inputs: Tensor, same: float, different: float) -> float:
    """Compute the definition pair by pair and expert by expert."""
    count, experts = gates.shape
    distance = {
        (i, j): float((inputs[i] - inputs[j]).norm()) for i in range(count) for j in range(count)
    }
    largest = max(distance.values())
    alike = unlike = 0.0
    for (i, j), value in distance.items():
        for e in range(experts):
            for f in range(experts):
                part = float(gates[i, e] * gates[j, f]) * value / largest
                alike, unlike = (alike + part, unlike) if e == f else (alike, unlike + part)
    return (same * alike / experts - different * unlike / (experts**2 - experts)) / count**2


@pytest.mark.parametrize(("same", "different"), [(1.0, 1.0), (0.3, 0.0), (0.0, 2.0)])
def test_sample_similarity_is_the_sum_over_pairs(same, different):
    inputs, gates = normal(5, 2, 3, 3), normal(5, 1, 4, seed=1).softmax(-1)
    batch = Batch(inputs, torch.zeros(5, dtype=torch.long))
    got = LOSSES.get("sample_similarity").target(
        MixtureRouting(gates), batch, beta_same=same, beta_different=different
    )
    want = looped_similarity(gates[:, 0], inputs.flatten(1), same, different)
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_sample_similarity_pools_the_tokens_of_an_image_whatever_the_groups():
    inputs, gates = normal(4, 1, 3, 3), normal(4, 6, 3, seed=1).softmax(-1)
    batch = Batch(inputs, torch.zeros(4, dtype=torch.long))
    target = LOSSES.get("sample_similarity").target
    by_image = target(MixtureRouting(gates), batch)
    assert by_image.item() == pytest.approx(target(MixtureRouting(gates.view(1, 24, 3)), batch))
    assert by_image.item() == pytest.approx(target(MixtureRouting(gates.mean(1, True)), batch))


def test_sample_similarity_rewards_sending_similar_samples_to_the_same_expert():
    near, far = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    batch = Batch(torch.cat([near, far]), torch.zeros(6, dtype=torch.long))
    target = LOSSES.get("sample_similarity").target
    split = torch.eye(2)[[0, 0, 0, 1, 1, 1]].unsqueeze(1)
    mixed = torch.eye(2)[[0, 1, 0, 1, 0, 1]].unsqueeze(1)
    # Samples of one expert are equal, samples of two experts are at the largest distance.
    assert target(MixtureRouting(split), batch).item() == pytest.approx(-18 / 2 / 36)
    assert target(MixtureRouting(split), batch) < target(MixtureRouting(mixed), batch)


def test_sample_similarity_of_equal_inputs_or_one_expert_is_zero():
    target = LOSSES.get("sample_similarity").target
    batch = Batch(torch.ones(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    gates = normal(4, 1, 3).softmax(-1).requires_grad_()
    value = target(MixtureRouting(gates), batch)
    value.backward()
    assert value == 0
    assert gates.grad.isfinite().all()
    one = Batch(normal(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    assert target(MixtureRouting(torch.ones(4, 1, 1)), one, beta_same=0.0) == 0


@pytest.mark.parametrize("lengths", [None, (0, 5, 3, 1, 0, 2)])
def test_losses_that_allow_micro_batches_have_the_gradient_of_the_whole_batch(lengths):
    """Each is tested over three parts of different size and padding, one of them all padding."""
    mask = None if lengths is None else torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    logits = torch.randn(6, 5, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(6, 5, 4, dtype=torch.float64)
    router = build_router("softmax_token_choice", dim=3, num_experts=4, top_k=2).train()

    def value_of(loss, part, parts=None):
        own = logits[part]
        routing = router.allocate_noisy(own, own + noise[part])
        routing = dataclasses.replace(
            routing, logits=own, noisy_logits=own + noise[part], noise_std=1.0
        )
        if mask is not None:
            real = mask[part].unsqueeze(-1)
            chosen, gates = real.expand_as(routing.experts), routing.gates * real
            routing = dataclasses.replace(routing, mask=mask[part], chosen=chosen, gates=gates)
        return loss(routing, Batch(noise[part], torch.zeros(len(own)).long(), parts))

    cuttable = [entry for entry in LOSSES.entries() if passes_of(entry.target)]
    assert len(cuttable) >= 8
    assert not passes_of(LOSSES.get("sample_similarity").target)
    for entry in cuttable:
        if entry.name == "global_batch":
            continue  # which defines its own behaviour, see below
        loss, parts = entry.target, Parts()
        whole = value_of(loss, slice(0, 6))
        (want,) = torch.autograd.grad(whole, logits)
        cuts = [slice(0, 1), slice(1, 4), slice(4, 6)]
        shares = [1 / 6, 3 / 6, 2 / 6]
        for part, share in zip(cuts, shares, strict=True):
            parts.begin(share, adding=True)
            value_of(loss, part, parts)
        total, got = 0.0, torch.zeros_like(want)
        for part, share in zip(cuts, shares, strict=True):
            parts.begin(share, adding=False)
            value = share * value_of(loss, part, parts)
            got += torch.autograd.grad(value, logits)[0]
            total += value.detach()
        torch.testing.assert_close(total, whole.detach(), msg=entry.name)
        torch.testing.assert_close(got, want, msg=entry.name)


@pytest.mark.parametrize("name", ["z", "gate_entropy"])
def test_a_mean_over_the_tokens_of_an_all_padding_batch_is_0(name):
    router = build_router("softmax_token_choice", dim=3, num_experts=4).train()
    nothing = RouterContext(mask=torch.zeros(2, 5, dtype=torch.bool))
    assert loss(name, router(torch.randn(2, 5, 3), nothing)) == 0


def test_the_global_batch_loss_uses_the_mean_of_the_parts_so_far():
    router = build_router("softmax_token_choice", dim=3, num_experts=4).train()
    routings = [router.allocate(torch.randn(2, 5, 4)) for _ in range(3)]
    parts, counts = Parts(), torch.zeros(4)
    for number, routing in enumerate(routings, 1):
        parts.begin(1 / 3, adding=False)
        batch = Batch(torch.zeros(2, 1), torch.zeros(2).long(), parts)
        counts += routing.demand().sum(0)
        share = counts / number / 10
        want = 4 * (share * routing.gates.mean((0, 1))).sum()
        torch.testing.assert_close(LOSSES.get("global_batch").target(routing, batch), want)
