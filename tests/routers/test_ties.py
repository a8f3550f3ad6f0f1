"""Equal scores choose the lowest index, and underflowing gates still rank by their logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routers import build_router
from routers.logits import by_boundary, highest
from routers.transport import sinkhorn_plan, sparse_plan


def build(name, tokens, experts, **options):
    return build_router(name, dim=6, num_experts=experts, tokens=tokens, **options)


def by_hand(row, k):
    """Return the k highest, with the lowest index first among equal ones."""
    return sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]


scores = st.lists(st.sampled_from([-math.inf, -130.0, -1.0, 0.0, 0.5, 1e30]), min_size=1)


@given(scores, st.data(), st.sampled_from([torch.float32, torch.float64]))
def test_the_highest_are_those_of_a_sort_by_value_then_index(row, data, dtype):
    k = data.draw(st.integers(1, len(row)))
    values = torch.tensor([row, row[::-1]], dtype=dtype)
    for layout in (values, values.T.contiguous().T):
        for got, line in zip(highest(layout, k)[1].tolist(), values.tolist(), strict=True):
            assert got == by_hand(line, k)


@pytest.mark.parametrize("k", [1, 2, 9, 40, 64])
def test_the_highest_of_many_values_with_many_ties_are_right(k):
    values = torch.randint(0, 7, (3, 5, 64), generator=torch.Generator().manual_seed(k)).float()
    stable = values.sort(stable=True, dim=-1, descending=True).indices[..., :k]
    assert highest(values, k)[1].equal(stable)
    assert highest(values, k)[0].equal(values.gather(-1, stable))
    assert by_boundary(values, k)[1].equal(stable)  # as on a GPU
    distinct = values + torch.linspace(0, 0.5, 64)
    assert highest(distinct, k)[1].equal(by_boundary(distinct, k)[1])


TOKENS_CHOOSE = ["softmax_token_choice", "sinkhorn_token_choice", "frozen", "random", "hash"]


@pytest.mark.parametrize("name", TOKENS_CHOOSE)
def test_equal_logits_choose_the_lowest_experts(name):
    routing = build(name, 3, 4, top_k=2).allocate(torch.zeros(1, 3, 4))
    assert routing.experts.tolist() == [[[0, 1]] * 3]
    assert routing.first_choice().equal(routing.gates.argmax(-1))


@pytest.mark.parametrize("name", ["softmax_token_choice", "frozen", "random", "hash"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 2, 0], [2, 3, 0, 1]])
def test_a_gate_that_underflows_still_ranks_by_its_logit(name, order):
    row = torch.empty(4)
    row[torch.tensor(order)] = torch.tensor([0.0, -110.0, -120.0, -130.0])
    logits = row.expand(1, 4, 4).clone()
    routing = build(name, 4, 4, top_k=2, capacity_factor=None).allocate(logits)
    assert routing.experts[0, 0].tolist() == order[:2]


def test_a_sinkhorn_plan_that_underflows_ranks_by_its_logarithm():
    logits = torch.tensor([[[0.0, -400.0, -300.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert (sinkhorn_plan(logits).plan[0, 0, 1:] == 0).all()
    routing = build("sinkhorn_token_choice", 3, 3, top_k=2).allocate(logits)
    assert routing.experts[0, 0].tolist() == [0, 2]


def test_the_best_experts_of_a_mixture_are_ranked_by_their_logits():
    logits = torch.tensor([[[0.0, -130.0, -120.0, -110.0]]])
    trained = build("softmax_mixture", 1, 4, eval_top_k=2).eval().allocate(logits)
    assert trained.experts.tolist() == [[[0, 3]]]
    even = build("softmax_mixture", 1, 4, weighed_top_k=2).allocate(torch.zeros(1, 1, 4))
    assert even.weights.tolist() == [[[0.25, 0.25, 0, 0]]]


@pytest.mark.parametrize(
    "name",
    ["softmax_expert_choice", "sinkhorn_expert_choice", "sparsity_constrained_expert_choice"],
)
def test_equal_logits_choose_the_earliest_tokens(name):
    logits = torch.zeros(1, 8, 4)
    routing = build(name, 8, 4).allocate(logits)
    scores = sparse_plan(logits.softmax(-1), 2).scores if "sparsity" in name else logits
    want = [by_hand(column, 2) for column in scores[0].T.tolist()]
    assert routing.tokens[0].tolist() == want


def test_an_expert_ranks_tokens_with_underflowing_gates_by_their_logarithms():
    logits = torch.tensor([[[0.0, -200.0], [0.0, -150.0], [0.0, -170.0], [0.0, -120.0]]])
    routing = build("softmax_expert_choice", 4, 2).allocate(logits)
    assert routing.tokens[0].tolist() == [[0, 1], [3, 1]]


def test_tokens_of_equal_priority_are_served_in_their_order():
    logits = torch.zeros(1, 6, 2)
    router = build("softmax_token_choice", 6, 2, batch_priority=True, capacity_factor=1.0)
    assert router.allocate(logits).kept.flatten().tolist() == [True] * 3 + [False] * 3


def test_batch_priority_is_decided_by_the_gate_and_not_the_logit():
    logits = torch.tensor([[[9.0, 8.9], [2.0, 0.0]]])
    router = build("softmax_token_choice", 2, 2, batch_priority=True, capacity_factor=1.0)
    assert router.allocate(logits).kept.flatten().tolist() == [False, True]
