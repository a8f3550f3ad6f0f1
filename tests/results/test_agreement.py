"""Agreement between seeds: experts matched one to one, and compared with chance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from results.statistics.agreement import agreement, matched


def one_hot(choices, experts):
    """Return shares of one expert for each token, after those of no expert."""
    return np.eye(1 + experts)[choices.astype(int) + 1]


def routing(seed, tokens=400, experts=6):
    """Return shares with some tokens that no expert processed."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(experts, 0.3), tokens)
    dropped = generator.random(tokens) < 0.1
    return np.column_stack([dropped, shares * ~dropped[:, None]])


@given(st.permutations(range(6)), st.integers(0, 5))
@settings(max_examples=5, deadline=None)
def test_a_routing_with_its_experts_renumbered_agrees_wholly(order, seed):
    shares = routing(seed)
    renumbered = np.column_stack([shares[:, 0], shares[:, 1:][:, order]])
    got = agreement(shares.astype(np.float16), renumbered.astype(np.float16))
    assert (got.matched, got.adjusted) == (pytest.approx(1), pytest.approx(1))
    assert got.chance < 0.6


def test_independent_routings_agree_only_by_chance_as_the_rand_index_does():
    generator = np.random.default_rng(0)
    adjusted, rand = [], []
    for _ in range(20):
        one, other = generator.integers(8, size=(2, 500))
        got = agreement(one_hot(one, 8), one_hot(other, 8))
        assert got.matched > 1 / 8  # matching finds some agreement in anything
        adjusted.append(got.adjusted)
        rand.append(adjusted_rand_score(one, other))
    for values in (adjusted, rand):
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(20)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9, 1.0])
def test_the_shared_part_of_two_routings_is_recovered(kept):
    generator = np.random.default_rng(1)
    one = generator.integers(6, size=5_000)
    same = generator.random(5_000) < kept
    other = np.where(same, (one + 2) % 6, generator.integers(6, size=5_000))
    got = agreement(one_hot(one, 6), one_hot(other, 6))
    assert got.adjusted == pytest.approx(kept, abs=0.04)
    assert got.matched == pytest.approx(kept + (1 - kept) / 6, abs=0.04)


def test_the_matching_is_optimal():
    p, q = routing(1, experts=4), routing(2, experts=4)
    best = max(
        np.minimum(p, np.column_stack([q[:, 0], q[:, 1:][:, order]])).sum(1).mean()
        for order in permutations(range(4))
    )
    assert matched(p, q) == pytest.approx(best)


def test_adjusted_agreement_is_undefined_if_chance_explains_everything():
    collapsed = one_hot(np.zeros(50), 4)
    got = agreement(collapsed, one_hot(np.full(50, 3), 4))
    assert (got.matched, got.chance, got.adjusted) == (1, 1, None)


def test_other_experts_or_tokens_are_refused():
    with pytest.raises(ValueError, match="no routings of the same tokens"):
        agreement(routing(0), routing(0, experts=5))
