"""The fast path of every form of routing equals the definition, and the counts are right."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routers import (
    ExpertChoiceRouting,
    MixtureRouting,
    RequestError,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
)

DIM = 3
sizes = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 3),
        "tokens": st.integers(1, 9),
        "experts": st.integers(1, 5),
        "seed": st.integers(0, 2**16),
    }
)


def logits_of(size, *extra):
    torch.manual_seed(size["seed"])
    shape = (size["groups"], size["tokens"], size["experts"], *extra)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def per_expert(slot_inputs):
    """Apply a different nonlinear function for each expert."""
    scale = torch.arange(1, slot_inputs.shape[0] + 1, dtype=slot_inputs.dtype)
    return torch.sin(slot_inputs * scale.view(-1, *[1] * (slot_inputs.dim() - 1)) + 0.3)


def assert_equals_definition(routing, logits):
    """Compare values and gradients of the fast path with those of the materialised tensors."""
    groups, tokens = logits.shape[:2]
    x = torch.randn(groups, tokens, DIM, dtype=torch.float64, requires_grad=True)
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    assert d.shape == c.shape == (groups, tokens, routing.num_experts, routing.num_slots)
    slots = routing.dispatch(x)
    torch.testing.assert_close(slots, torch.einsum("gtes,gtd->egsd", d.to(x.dtype), x))
    y = routing.combine(per_expert(slots))
    oracle = torch.einsum(
        "gtes,egsd->gtd", c, per_expert(torch.einsum("gtes,gtd->egsd", d.to(x.dtype), x))
    )
    torch.testing.assert_close(y, oracle)
    upstream = torch.randn_like(y)
    fast = torch.autograd.grad(y, (x, logits), upstream, retain_graph=True)
    for got, want in zip(fast, torch.autograd.grad(oracle, (x, logits), upstream), strict=True):
        torch.testing.assert_close(got, want)


def assert_counts_follow_the_tensors(routing):
    for name in ("expert_load", "token_coverage", "combine_weights"):
        torch.testing.assert_close(getattr(routing, name)(), getattr(Routing, name)(routing))
    assert (routing.expert_load() <= routing.num_tokens).all()
    assert (routing.expert_load() <= routing.demand()).all()
    assert routing.slot_count == routing.dispatch_tensor()[:, 0].numel()


@given(sizes, st.data())
def test_token_choice_equals_the_definition(size, data):
    logits = logits_of(size)
    k = data.draw(st.integers(1, size["experts"]))
    capacity = data.draw(st.one_of(st.none(), st.integers(1, size["tokens"])))
    routing = TokenChoiceRouting.top_k(
        logits.softmax(-1),
        k,
        capacity,
        batch_priority=data.draw(st.booleans()),
        renormalize=data.draw(st.booleans()),
    )
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)
    assert routing.choices == k
    # No slot holds two tokens.
    assert (routing.dispatch_tensor().sum(1) <= 1).all()
    if capacity is None:
        assert routing.dropped_share() == 0
        assert routing.num_slots == max(1, int(routing.demand().max()))


@given(sizes, st.data())
def test_token_choice_with_limits_and_unreal_choices_equals_the_definition(size, data):
    logits = logits_of(size)
    k = data.draw(st.integers(1, size["experts"]))
    limits = torch.tensor(
        data.draw(st.lists(st.integers(1, 4), min_size=size["experts"], max_size=size["experts"]))
    )
    gates = logits.softmax(-1)
    weights, experts = gates.topk(k, dim=-1)
    chosen = torch.rand(experts.shape) < 0.6
    routing = TokenChoiceRouting.from_choices(gates, experts, weights, limits, chosen=chosen)
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)
    torch.testing.assert_close(routing.expert_load(), routing.demand().minimum(limits))
    assert routing.demand().sum() == chosen.sum()


@given(sizes, st.data())
def test_expert_choice_equals_the_definition(size, data):
    logits = logits_of(size)
    slots = data.draw(st.one_of(st.none(), st.integers(1, size["tokens"])))
    routing = ExpertChoiceRouting.top_tokens(logits.softmax(-1), slots)
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)
    assert (routing.expert_load() == (slots or size["tokens"])).all()


@given(sizes)
def test_expert_choice_with_unused_slots_equals_the_definition(size):
    logits = logits_of(size)
    gates = logits.softmax(-1)
    full = ExpertChoiceRouting.top_tokens(gates, size["tokens"])
    filled = torch.rand(full.tokens.shape) < 0.5
    # An unused slot may name any token, also one that the expert has taken.
    used = full.tokens[..., :1].expand_as(full.tokens)
    tokens = torch.where(filled, full.tokens, used)
    routing = ExpertChoiceRouting(gates, tokens, full.weights, filled)
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)
    torch.testing.assert_close(routing.expert_load(), filled.sum(-1))


@given(sizes, st.integers(1, 3))
def test_soft_equals_the_definition(size, slots):
    logits = logits_of(size, slots)
    routing = SoftRouting.from_logits(logits)
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(routing.dispatch_tensor().sum(1), one.expand(logits[:, 0].shape))
    torch.testing.assert_close(routing.gates.sum(-1), one.expand(logits.shape[:2]))


@given(sizes)
def test_mixture_equals_the_definition(size):
    logits = logits_of(size)
    routing = MixtureRouting(logits.softmax(-1))
    assert_equals_definition(routing, logits)
    assert_counts_follow_the_tensors(routing)


@pytest.mark.parametrize("form", ["token", "expert", "soft", "mixture"])
def test_tokens_may_be_images(form):
    logits = torch.randn(2, 5, 3)
    routing = {
        "token": lambda: TokenChoiceRouting.top_k(logits.softmax(-1), 2, 2),
        "expert": lambda: ExpertChoiceRouting.top_tokens(logits.softmax(-1), 2),
        "soft": lambda: SoftRouting.from_logits(logits.unsqueeze(-1)),
        "mixture": lambda: MixtureRouting(logits.softmax(-1)),
    }[form]()
    images = torch.randn(2, 5, 1, 4, 4)
    slots = routing.dispatch(images)
    assert slots.shape == (3, 2, routing.num_slots, 1, 4, 4)
    flat = routing.combine(routing.dispatch(images.flatten(2)))
    torch.testing.assert_close(routing.combine(slots), flat.view_as(images))


def gates_of(*rows):
    return torch.tensor([rows])


def test_all_first_choices_are_served_before_second_ones():
    gates = gates_of([0.6, 0.4], [0.7, 0.3], [0.2, 0.8])
    routing = TokenChoiceRouting.top_k(gates, 2, capacity=2)
    # Expert 0: first choices of tokens 0 and 1; expert 1: first of token 2, then second of 0.
    expected = torch.tensor([[[True, True], [True, False], [True, False]]])
    assert routing.kept.equal(expected)
    assert routing.demand().tolist() == [[3, 3]]
    assert routing.expert_load().tolist() == [[2, 2]]
    assert routing.token_coverage().tolist() == [[2, 1, 1]]
    assert routing.dropped_share() == pytest.approx(2 / 6)
    weights = torch.tensor([[[0.6, 0.4], [0.7, 0.0], [0.0, 0.8]]])
    torch.testing.assert_close(routing.combine_weights(), weights)


def test_tokens_are_served_in_order_or_with_priority_by_their_highest_score():
    gates = gates_of([0.6, 0.4], [0.9, 0.1], [0.7, 0.3])
    in_order = TokenChoiceRouting.top_k(gates, 1, capacity=1)
    assert in_order.kept.flatten().tolist() == [True, False, False]
    by_score = TokenChoiceRouting.top_k(gates, 1, capacity=1, batch_priority=True)
    assert by_score.kept.flatten().tolist() == [False, True, False]
    assert by_score.position.flatten().tolist() == [2, 0, 1]


def test_scores_decide_the_choice_and_gates_the_weights():
    gates, scores = gates_of([0.6, 0.4]), gates_of([0.1, 0.9])
    routing = TokenChoiceRouting.top_k(gates, 1, None, scores=scores)
    assert routing.experts.item() == 1
    assert routing.weights.item() == pytest.approx(0.4)


def test_renormalised_weights_sum_to_one_over_the_choices():
    routing = TokenChoiceRouting.top_k(gates_of([0.5, 0.3, 0.2]), 2, None, renormalize=True)
    torch.testing.assert_close(routing.weights, torch.tensor([[[0.625, 0.375]]]))


def test_an_unused_slot_holds_zeros_even_if_a_token_is_nan():
    routing = TokenChoiceRouting.top_k(gates_of([0.9, 0.1], [0.8, 0.2]), 1, capacity=2)
    slots = routing.dispatch(torch.full((1, 2, DIM), torch.nan))
    assert slots[0].isnan().all()
    assert (slots[1] == 0).all()


def test_experts_take_the_tokens_with_their_highest_gates():
    gates = gates_of([0.6, 0.4], [0.9, 0.1], [0.7, 0.3])
    routing = ExpertChoiceRouting.top_tokens(gates, 2)
    assert routing.tokens.sort(-1).values.tolist() == [[[1, 2], [0, 2]]]
    assert routing.token_coverage().tolist() == [[1, 1, 2]]
    weights = torch.tensor([[[0.0, 0.4], [0.9, 0.0], [0.7, 0.3]]])
    torch.testing.assert_close(routing.combine_weights(), weights)


@pytest.mark.parametrize("k", [0, 4])
def test_more_choices_than_experts_are_refused_with_both_numbers(k):
    gates = torch.full((1, 5, 3), 1 / 3)
    with pytest.raises(RequestError, match=f"cannot choose {k} of 3 experts; k is from 1 to 3"):
        TokenChoiceRouting.top_k(gates, k, None)


def test_more_slots_than_tokens_are_refused_with_both_numbers():
    with pytest.raises(RequestError, match="cannot choose 6 of 5 tokens"):
        ExpertChoiceRouting.top_tokens(torch.full((1, 5, 3), 1 / 3), 6)


@pytest.mark.parametrize("k", [1, 2])
def test_float32_outputs_are_combined_and_differentiated_in_float32_under_autocast(k):
    logits, outputs = torch.randn(2, 5, 3), torch.randn(3, 2, 4, 6, requires_grad=True)
    results = []
    for enabled in (False, True):
        weights = logits.softmax(-1).requires_grad_()
        routing = TokenChoiceRouting.top_k(weights, k, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = routing.combine(outputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), [outputs, weights])))
    for one, other in zip(*results, strict=True):
        assert one.dtype == torch.float32
        assert one.equal(other)
