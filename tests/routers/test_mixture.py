"""Mixtures: gates by definition, levels as an outer product, and weights that can be changed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routers import MixtureRouting, RequestError, Site, TokenChoiceRouting, build_router, two_levels


def router_of(name, experts=4, **options):
    site = options.pop("site", None)
    return build_router(name, dim=6, num_experts=experts, tokens=5, site=site, **options).double()


def tokens(groups=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups, 5, 6, generator=generator, dtype=torch.float64)


def moved(router):
    """Return the router with uneven gates."""
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.normal_()
    return router


def test_top_k_keeps_the_largest_gates_and_zeroes_the_rest():
    routing = router_of("softmax_mixture", weighed_top_k=2)(tokens())
    gates = routing.logits.softmax(-1)
    torch.testing.assert_close(routing.gates, gates)
    best = gates.topk(2, dim=-1)
    torch.testing.assert_close(routing.weights, torch.zeros_like(gates).scatter(-1, *best[::-1]))
    assert (routing.expert_load() == 5).all()


def test_all_experts_run_in_training_and_only_the_best_afterwards():
    router = router_of("softmax_mixture", eval_top_k=2)
    assert isinstance(router(tokens()), MixtureRouting)
    after = router.eval()(tokens())
    assert isinstance(after, TokenChoiceRouting)
    assert (after.token_coverage() == 2).all()
    torch.testing.assert_close(after.gates, after.logits.softmax(-1))
    torch.testing.assert_close(after.weights.sum(-1), torch.ones(3, 5, dtype=torch.float64))


@pytest.mark.parametrize("option", ["weighed_top_k", "eval_top_k"])
def test_a_top_k_above_the_number_of_experts_is_refused(option):
    with pytest.raises(RequestError, match=f"{option} = 5 is more than num_experts = 4"):
        router_of("softmax_mixture", **{option: 5})


def entmax15_by_bisection(logits):
    """p_e = max(L_e / 2 − τ, 0)² with Σ p = 1 (1905.05702), τ by bisection."""
    half = logits / 2
    low, high = half.max(-1, keepdim=True).values - 1, half.max(-1, keepdim=True).values
    for _ in range(80):
        middle = (low + high) / 2
        above = (half - middle).clamp(min=0).square().sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (half - low).clamp(min=0).square()


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("activation", ["entmax15", "softmax"])
def test_mumoe_applies_its_activation_to_normalised_logits(normalization, activation):
    router = moved(router_of("mumoe", normalization=normalization, activation=activation))
    x = tokens()
    routing = router(x)
    raw = x @ router.gate.weight.T
    over = (0, 1) if normalization == "batch" else (2,)
    centred = raw - raw.mean(over, keepdim=True)
    variance = centred.square().mean(over, keepdim=True)
    normal = centred / (variance + 1e-5).sqrt()
    torch.testing.assert_close(routing.logits, normal)
    gates = entmax15_by_bisection(normal) if activation == "entmax15" else normal.softmax(-1)
    torch.testing.assert_close(routing.gates, gates)
    torch.testing.assert_close(routing.weights, gates)


def test_outside_training_gates_do_not_depend_on_the_batch():
    router = moved(router_of("mumoe"))
    router(tokens())
    x = tokens(seed=1)
    router.eval()
    torch.testing.assert_close(router(x).gates[:1], router(x[:1]).gates)


def test_all_experts_start_with_equal_gates():
    routing = router_of("mumoe")(tokens())
    torch.testing.assert_close(routing.gates, torch.full_like(routing.gates, 0.25))


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_levels_are_activated_separately_and_multiplied(normalization):
    site = Site(levels=(2, 3))
    router = moved(router_of("mumoe", experts=6, site=site, normalization=normalization))
    routing = router(tokens())
    first, second = routing.levels
    assert first.shape == (3, 5, 2)
    assert second.shape == (3, 5, 3)
    for level in (first, second):
        torch.testing.assert_close(level.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    for e in range(6):
        product = first[..., e // 3] * second[..., e % 3]
        torch.testing.assert_close(routing.gates[..., e], product)


@given(st.integers(4, 2000))
def test_two_levels_are_as_equal_as_they_can_be(experts):
    divisors = [n for n in range(2, experts) if experts % n == 0]
    if not divisors:
        with pytest.raises(RequestError, match=f"num_experts = {experts} cannot be split"):
            two_levels(experts)
        return
    first, second = two_levels(experts)
    assert first * second == experts
    assert 1 < first <= second
    assert second - first == min(abs(experts // n - n) for n in divisors)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_token_choice", {"top_k": 2, "capacity_factor": 0.7}),
        ("softmax_expert_choice", {}),
        ("soft_moe", {"num_slots": 2}),
        ("softmax_mixture", {"weighed_top_k": 2}),
        ("mumoe", {}),
    ],
)
def test_reweighting_multiplies_only_the_combine_tensor(name, options):
    routing = moved(router_of(name, **options)).eval()(tokens())
    factors = torch.tensor([0.0, 1.0, 2.0, -0.5], dtype=torch.float64)
    changed = routing.reweighted(factors)
    wanted = routing.combine_tensor() * factors.view(1, 1, -1, 1)
    torch.testing.assert_close(changed.combine_tensor(), wanted)
    torch.testing.assert_close(changed.combine_weights(), routing.combine_weights() * factors)
    torch.testing.assert_close(changed.dispatch_tensor(), routing.dispatch_tensor())
    torch.testing.assert_close(changed.gates, routing.gates)
    slots = torch.randn(4, 3, routing.num_slots, 6, dtype=torch.float64)
    by_tensor = torch.einsum("gtes,egsd->gtd", wanted, slots)
    torch.testing.assert_close(changed.combine(slots), by_tensor)


def test_a_mixture_with_noise_is_weighted_by_the_noisy_logits():
    routing = router_of("softmax_mixture", noise_std=2.0)(tokens())
    torch.testing.assert_close(routing.gates, routing.logits.softmax(-1))
    torch.testing.assert_close(routing.weights, routing.noisy_logits.softmax(-1))


def test_the_loads_of_a_mixture_are_those_of_its_tensors():
    routing = moved(router_of("softmax_mixture"))(tokens())
    taken = (routing.dispatch_tensor() != 0).any(-1)
    assert routing.expert_load().equal(taken.sum(1))
    assert routing.token_coverage().equal(taken.sum(2))


def test_float32_outputs_are_mixed_in_float32_under_autocast():
    routing = router_of("softmax_mixture").float()(tokens().float())
    slots = torch.rand(4, 3, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = routing.combine(slots)
    assert mixed.dtype == torch.float32
    assert mixed.equal(routing.combine(slots))


@pytest.mark.parametrize("scale", [1.0, 1e20, 3e38])
def test_entmax_of_large_logits_selects_the_largest(scale):
    router = build_router("mumoe", dim=4, num_experts=4)
    gates = router.allocate(scale * torch.tensor([[[1.0, -1.0, 0.5, 0.0]]])).gates
    assert gates.argmax() == 0
    assert gates.sum() == pytest.approx(1)
    if scale > 1:
        assert gates.flatten().tolist() == [1, 0, 0, 0]
