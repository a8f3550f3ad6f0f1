"""Transport plans, compared with POT, scipy's assignment, and their defining properties.

`OMP_NUM_THREADS=1 python tests/routers/test_transport.py` prints what the plans cost at the shape
of a ViT-S/16 layer: Sinkhorn's beside a dense MLP, the sparse one beside POT at its dual value.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ot.smooth import SparsityConstrained, semi_dual_obj_grad, smooth_ot_semi_dual
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from routers.transport import (
    _SAFE_SPREAD,
    _log_sum_exp,
    _scale,
    _scale_logarithms,
    sinkhorn_plan,
    sparse_plan,
)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax_gates(groups: int, tokens: int, experts: int, scale: float, seed: int = 0) -> Tensor:
    """Return gates of a linear router on unit-normal tokens: logits with deviation `scale`."""
    x = normal(groups, tokens, 16, seed=seed)
    return (x @ normal(16, experts, seed=seed + 1, scale=scale / 4)).softmax(-1)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6))


# Sinkhorn


@given(shapes, st.integers(0, 99), st.sampled_from([0.1, 1.0, 30.0, 3000.0]))
@settings(deadline=None)
def test_sinkhorn_rows_sum_to_one_and_the_column_error_is_reported(shape, seed, scale):
    result = sinkhorn_plan(normal(*shape, seed=seed, scale=scale))
    _, tokens, experts = shape
    assert (result.plan >= 0).all()
    torch.testing.assert_close(result.plan.sum(2), torch.ones(shape[:2], dtype=torch.float64))
    error = (result.plan.sum(1) * experts / tokens - 1).abs().amax(1)
    torch.testing.assert_close(result.marginal_error, error)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_sinkhorn_reaches_pots_plan(epsilon):
    logits = normal(2, 20, 5, scale=2.0)
    result = sinkhorn_plan(logits, iterations=500, epsilon=epsilon)
    for group, plan in zip(logits.numpy(), result.plan.numpy(), strict=True):
        rows, columns = np.full(20, 1 / 20), np.full(5, 1 / 5)
        # With sums of 1 the plan is P / t; scaling does not move the maximiser.
        expected = 20 * ot.sinkhorn(rows, columns, -group, epsilon, stopThr=1e-12, numItermax=5000)
        np.testing.assert_allclose(plan, expected, rtol=1e-6)
    assert result.marginal_error.max() < 1e-9


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_equals_pot_after_the_same_number_of_iterations(iterations):
    """Same start and same order of half-steps give the same plan long before convergence."""
    logits = normal(1, 20, 5, scale=6.0)
    rows, columns = np.full(20, 1 / 20), np.full(5, 1 / 5)
    expected = 20 * ot.sinkhorn(
        rows, columns, -logits[0].numpy(), 1.0, stopThr=0, numItermax=iterations, warn=False
    )
    result = sinkhorn_plan(logits, iterations=iterations)
    np.testing.assert_allclose(result.plan[0].numpy(), expected, rtol=1e-9)
    assert result.marginal_error.item() > 1e-3


def test_sinkhorn_by_hand():
    # Two tokens that both prefer the first expert, by log 3: balance leaves (1/2, 1/2) each.
    even = sinkhorn_plan(torch.tensor([[[math.log(3.0), 0.0], [math.log(3.0), 0.0]]])).plan
    torch.testing.assert_close(even, torch.full((1, 2, 2), 0.5))
    # exp(L) = [[4, 1], [1, 1]] scales to [[2/3, 1/3], [1/3, 2/3]]: the cross ratio remains 4.
    logits = torch.tensor([[[math.log(4.0), 0.0], [0.0, 0.0]]])
    crossed = sinkhorn_plan(logits).plan
    torch.testing.assert_close(crossed, torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]) / 3)


@given(st.integers(0, 99), st.floats(0.1, 1.0), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None)
def test_the_fast_form_equals_the_logarithmic_up_to_its_limit(seed, share, dtype):
    sign = normal(2, 6, 30, seed=seed).tanh()
    spread = sign.amax((1, 2), keepdim=True) - sign.amin((1, 2), keepdim=True)
    kernel_log = sign * (share * _SAFE_SPREAD[dtype] / spread)
    fast = _scale((kernel_log - kernel_log.amax((1, 2), keepdim=True)).to(dtype), 20)
    exact = _scale_logarithms(kernel_log, 20).exp()
    torch.testing.assert_close(fast.double(), exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_logarithmic_form_sums_like_torch(scale):
    x = normal(2, 6, 30, scale=scale)
    torch.testing.assert_close(_log_sum_exp(x, 2), x.logsumexp(2))
    torch.testing.assert_close(_log_sum_exp(x, 1), x.logsumexp(1))


@pytest.mark.parametrize("corner", [-1.0, 1.0])
def test_the_fast_form_is_accurate_at_the_largest_spread(corner):
    """One entry against all others, at the largest distance for which the fast form is used."""
    kernel_log = torch.zeros(1, 6, 30)
    kernel_log[0, 2, 7] = corner * _SAFE_SPREAD[torch.float32]
    fast = _scale(kernel_log - kernel_log.amax(), 20)
    exact = _scale_logarithms(kernel_log.double(), 20).exp()
    torch.testing.assert_close(fast.double(), exact, rtol=1e-4, atol=1e-7)


def test_sinkhorn_treats_a_group_independently_of_other_groups():
    logits = normal(3, 10, 4).float()
    logits[1] *= 1e4
    together = sinkhorn_plan(logits).plan
    for index in range(3):
        assert torch.equal(together[index], sinkhorn_plan(logits[index : index + 1]).plan[0])


def test_sinkhorn_divides_logits_by_epsilon():
    logits = normal(2, 9, 4)
    expected = sinkhorn_plan(logits / 0.3).plan
    torch.testing.assert_close(sinkhorn_plan(logits, epsilon=0.3).plan, expected)


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 1, 3), (2, 6, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["zero", "constant", "huge", "half", "bfloat16"])
def test_plans_are_finite(shape, kind):
    logits = {
        "zero": torch.zeros(shape),
        "constant": torch.full(shape, 7.0),
        "huge": normal(*shape, scale=1e4).float(),
        "half": normal(*shape, scale=100.0).half(),
        "bfloat16": normal(*shape, scale=100.0).bfloat16(),
    }[kind]
    entropic = sinkhorn_plan(logits)
    sparse = sparse_plan(logits.softmax(-1), slots=2)
    for name, tensor in (*vars(entropic).items(), *vars(sparse).items()):
        assert tensor.isfinite().all()
        assert tensor.dtype == (torch.int64 if name == "tokens" else torch.float32)
    assert entropic.plan.shape == sparse.plan.shape == sparse.scores.shape == shape
    assert entropic.marginal_error.shape == sparse.marginal_error.shape == shape[:1]


def test_plans_carry_no_gradient():
    logits = normal(1, 6, 3).requires_grad_()
    assert not sinkhorn_plan(logits).plan.requires_grad
    result = sparse_plan(logits.softmax(-1), 2)
    assert not result.plan.requires_grad
    assert not result.scores.requires_grad


# Sparsity-constrained


def pot_potentials(gates: np.ndarray, slots: int, gamma: float) -> np.ndarray:
    """Return POT's maximiser of the semi-dual for (t, E) gates, found by L-BFGS."""
    tokens, experts = gates.shape
    rows, columns = np.full(tokens, 1 / tokens), np.full(experts, 1 / experts)
    # Its marginals sum to 1, so its plan is T/t and its regularisation γ·t. It prints, and it
    # passes an option that newer versions of scipy warn about.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        _, log = smooth_ot_semi_dual(
            rows,
            columns,
            -gates,
            gamma * tokens,
            reg_type="sparsity_constrained",
            max_nz=slots,
            log=True,
        )
    return log["alpha"]


def pot_dual_value(potentials: np.ndarray, gates: np.ndarray, slots: int, gamma: float) -> float:
    """Return the semi-dual as POT evaluates it, in units of the plan T."""
    tokens, experts = gates.shape
    rows, columns = np.full(tokens, 1 / tokens), np.full(experts, 1 / experts)
    regulariser = SparsityConstrained(gamma=gamma * tokens, max_nz=slots)
    with contextlib.redirect_stdout(io.StringIO()):
        value, _ = semi_dual_obj_grad(potentials, rows, columns, -gates, regulariser)
    return tokens * float(value)


@given(shapes, st.integers(0, 99), st.data())
@settings(deadline=None)
def test_sparse_columns_are_exact_and_the_row_error_is_reported(shape, seed, data):
    groups, tokens, experts = shape
    slots = data.draw(st.integers(1, tokens))
    gamma = data.draw(st.sampled_from([0.05, 1.0, 20.0]))
    result = sparse_plan(softmax_gates(*shape, 2.0, seed=seed), slots, gamma=gamma)
    assert (result.plan >= 0).all()
    assert ((result.plan > 0).sum(1) <= slots).all()
    mass = torch.full((groups, experts), tokens / experts, dtype=torch.float64)
    torch.testing.assert_close(result.plan.sum(1), mass)
    torch.testing.assert_close(result.marginal_error, (result.plan.sum(2) - 1).abs().amax(1))
    # A token outside the top s of its column by score has no mass there.
    lowest = result.scores.topk(slots, dim=1).values[:, -1:]
    assert (result.plan[result.scores < lowest] == 0).all()


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_the_sparse_plan_is_computed_from_its_scores_like_pots(gamma):
    gates = softmax_gates(2, 24, 4, 2.0)
    result = sparse_plan(gates, 6, gamma=gamma)
    for scores, plan in zip(result.scores.numpy(), result.plan.numpy(), strict=True):
        with contextlib.redirect_stdout(io.StringIO()):
            shares = ot.utils.projection_sparse_simplex(scores / (gamma * 24 / 4), 6, axis=0)
        np.testing.assert_allclose(plan, 24 / 4 * shares, atol=1e-9)


@pytest.mark.parametrize("slots", [2, 6, 12, 24])
def test_the_dual_value_is_that_of_the_potentials(slots):
    gates = softmax_gates(2, 24, 4, 3.0)
    result = sparse_plan(gates, slots, gamma=0.7)
    for group in range(2):
        scores, own = result.scores[group].numpy(), gates[group].numpy()
        potentials = (scores - own)[:, 0]
        np.testing.assert_allclose(scores - own, potentials[:, None].repeat(4, 1), atol=1e-12)
        expected = pot_dual_value(potentials, own, slots, 0.7)
        assert result.dual_value[group].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "scale"),
    [
        (196, 8, 1.0, 0.3),
        (196, 8, 1.0, 3.0),
        (196, 32, 1.0, 1.0),
        (49, 8, 1.0, 2.0),
        (49, 8, 2.0, 2.0),
    ],
)
def test_the_dual_value_reaches_that_of_pot(tokens, experts, factor, scale):
    """On average at least POT's, and in no group short of it by 1 % of what POT gained."""
    slots = math.ceil(factor * tokens / experts)
    gates = softmax_gates(3, tokens, experts, scale, seed=7)
    ours = sparse_plan(gates.float(), slots).dual_value.numpy()
    start, theirs = (
        np.array([pot_dual_value(alpha(own), own, slots, 1.0) for own in gates.numpy()])
        for alpha in (lambda own: np.zeros(len(own)), lambda own: pot_potentials(own, slots, 1.0))
    )
    assert ours.mean() >= theirs.mean() - 1e-4
    assert (theirs - ours <= 0.01 * (theirs - start)).all()
    assert (theirs - ours <= 1e-3 * np.abs(theirs)).all()


def ascend(gates: Tensor, slots: int, gamma: float, steps: int) -> Tensor:
    """Return the dual value that many normalised supergradient steps reach: (g, t, E) -> (g,)."""
    groups, tokens, experts = gates.shape
    mass = tokens / experts
    ranks = torch.arange(1, slots + 1, dtype=gates.dtype)
    potentials = gates.new_zeros(groups, tokens, 1)
    best = gates.new_full((groups,), -torch.inf)
    square = torch.ones_like(potentials)
    for step in range(steps):
        top, rows = (gates + potentials).topk(slots, dim=1)
        sums = (top.cumsum(1) - gamma * mass) / ranks[:, None]
        threshold = sums.amax(1, keepdim=True)
        shares = (top - threshold).clamp(min=0) / gamma
        conjugate = (0.5 * shares * (top + threshold)).sum((1, 2))
        best = best.maximum(potentials.sum((1, 2)) - conjugate)
        plan = torch.zeros_like(gates).scatter(1, rows, shares)
        gradient = 1 - plan.sum(2, keepdim=True)
        square = square.lerp(gradient.square(), 0.7)
        decay = 1e-5 ** (step / steps)
        potentials = potentials + 0.12 * decay * gradient / (square.sqrt() + 1e-8)
    return best


@pytest.mark.parametrize(
    ("tokens", "experts", "slots"),
    [(49, 8, 7), (49, 8, 13), (49, 32, 2), (64, 4, 20), (16, 4, 4), (30, 4, 30)],
)
@pytest.mark.parametrize(("gamma", "iterations"), [(0.1, 30), (1.0, 14), (10.0, 14)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_dual_value_is_that_of_a_converged_ascent(
    tokens, experts, slots, gamma, iterations, scale
):
    """In units of POT's, whose marginals sum to 1; the ascent itself may stop short."""
    gates = softmax_gates(3, tokens, experts, scale, seed=3)
    expected = ascend(gates, slots, gamma, 500) / tokens
    result = sparse_plan(gates.float(), slots, gamma=gamma, iterations=iterations)
    assert (expected - result.dual_value.double() / tokens).mean() < 1e-4


def test_more_iterations_come_closer_to_the_maximum():
    gates = softmax_gates(8, 49, 8, 1.0)
    values = [sparse_plan(gates, 7, iterations=n).dual_value.mean().item() for n in (3, 14, 50)]
    assert values == sorted(values)
    assert values[2] - values[1] < 1e-2 < values[1] - values[0]


def test_the_semi_dual_bounds_every_feasible_plan():
    gates = softmax_gates(4, 24, 6, 3.0)
    bound = -sparse_plan(gates, 4, gamma=0.5).dual_value
    for seed in range(20):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        plan = torch.zeros(24, 6, dtype=torch.float64)
        plan[order, torch.arange(24) % 6] = 1
        value = (plan * gates).sum((1, 2)) - 0.25 * plan.square().sum()
        assert (value <= bound).all()


def test_sparse_plan_by_hand():
    # One slot, one unit of mass each: columns are one-hot, and the best assignment is crossed
    # (0.8 + 0.6), though both experts prefer the first token.
    result = sparse_plan(torch.tensor([[[0.9, 0.8], [0.6, 0.1]]]), slots=1)
    torch.testing.assert_close(result.plan, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    assert result.dual_value.item() == pytest.approx(-(1.4 - 0.5 * 2), abs=1e-5)
    assert result.marginal_error.item() == pytest.approx(0, abs=1e-6)
    # Room for all tokens, equal gates: mass spreads evenly.
    even = sparse_plan(torch.full((1, 3, 3), 1 / 3), slots=3)
    torch.testing.assert_close(even.plan, torch.full((1, 3, 3), 1 / 3))


@pytest.mark.parametrize(("tokens", "experts"), [(48, 6), (96, 8), (192, 32)])
def test_a_capacity_factor_of_1_gives_the_optimal_balanced_assignment(tokens, experts):
    """With s·E = t and a large γ all mass of a column is spread evenly over its tokens, so the
    dual of the plan is that of the assignment."""
    slots, gamma = tokens // experts, 100.0
    gates = softmax_gates(3, tokens, experts, 2.0)
    result = sparse_plan(gates, slots, gamma=gamma, iterations=200)
    chosen = torch.zeros_like(gates).scatter_(1, result.scores.topk(slots, dim=1).indices, 1.0)
    for group in range(3):
        seats = gates[group].numpy().repeat(slots, axis=1)
        best = seats[linear_sum_assignment(seats, maximize=True)].sum()
        dual = -result.dual_value[group].item() + gamma * tokens / 2
        assert dual == pytest.approx(best, rel=2e-3)
        assert dual >= best - 1e-9
        value = (chosen * gates)[group].sum().item()
        assert value == pytest.approx(best, rel=0.03)
    once = (chosen.sum(2) == 1).double().mean()
    assert once > 0.9


def test_the_sparse_plan_scales_with_the_gates():
    gates = softmax_gates(2, 20, 4, 2.0)
    expected = sparse_plan(gates, 5, gamma=0.5)
    scaled = sparse_plan(8 * gates, 5, gamma=4.0)
    torch.testing.assert_close(scaled.plan, expected.plan)
    torch.testing.assert_close(scaled.dual_value, 8 * expected.dual_value)


@pytest.mark.parametrize(("tokens", "experts"), [(30, 5), (49, 8), (17, 3), (196, 8)])
def test_the_sparse_plan_treats_a_group_independently_of_other_groups(tokens, experts):
    gates = softmax_gates(3, tokens, experts, 2.0).float()
    gates[1] = 1 / experts
    together = sparse_plan(gates, 6)
    for index in range(3):
        alone = sparse_plan(gates[index : index + 1], 6)
        assert torch.equal(together.scores[index], alone.scores[0])
        assert torch.equal(together.plan[index], alone.plan[0])


def median_ms(call: Callable[[], object], repeats: int = 15) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def compare_with_dense() -> None:
    """Print the time of twenty Sinkhorn iterations over that of a dense MLP's forward pass."""
    mlp = torch.nn.Sequential(
        torch.nn.Linear(384, 1536), torch.nn.GELU(), torch.nn.Linear(1536, 384)
    )
    x = torch.randn(8, 196, 384)
    with torch.no_grad():
        dense = median_ms(lambda: mlp(x))
    for experts, scale in ((8, 1.0), (8, 30.0), (32, 1.0)):
        logits = normal(8, 196, experts, scale=scale).float()
        ms = median_ms(lambda logits=logits: sinkhorn_plan(logits))
        print(
            f"sinkhorn, {experts} experts, logits of deviation {scale}: {ms:.2f} ms, "
            f"{ms / dense:.3f} of a dense MLP ({dense:.1f} ms)"
        )


def compare_with_pot() -> None:
    """Print dual values and times: 8 groups × 196 tokens, capacity 1."""
    print("experts  scale   ours: mean dual       ms    POT: mean dual       ms    ratio of times")
    for experts in (8, 32):
        for scale in (0.3, 1.0, 3.0, 10.0):
            slots = math.ceil(196 / experts)
            gates = softmax_gates(8, 196, experts, scale)
            single = gates.float()
            ms = median_ms(lambda single=single, slots=slots: sparse_plan(single, slots))
            ours = sparse_plan(single, slots).dual_value.mean().item()
            start = time.perf_counter()
            potentials = [pot_potentials(own, slots, 1.0) for own in gates.numpy()]
            pot_ms = 1e3 * (time.perf_counter() - start)
            pairs = zip(potentials, gates.numpy(), strict=True)
            theirs = np.mean([pot_dual_value(alpha, own, slots, 1.0) for alpha, own in pairs])
            print(
                f"{experts:7d} {scale:6.1f} {ours:17.4f} {ms:8.1f} {theirs:17.4f} {pot_ms:8.1f} "
                f"{pot_ms / ms:17.1f}"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare_with_dense()
    compare_with_pot()
