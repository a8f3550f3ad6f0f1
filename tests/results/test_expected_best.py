"""The expected best of k trials."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.statistics.ranks import expected_best

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_the_expected_best_of_three_trials_by_hand() -> None:
    # One: the mean. Two: the best of {1, 2}, {1, 4}, {2, 4}. Three: the best of all.
    assert expected_best([4.0, 1.0, 2.0]) == pytest.approx([7 / 3, (2 + 4 + 4) / 3, 4.0])


@given(SCORES)
def test_it_is_the_mean_over_all_ways_to_draw_them(scores: list[float]) -> None:
    by_hand = [
        np.mean([max(chosen) for chosen in combinations(scores, k)])
        for k in range(1, len(scores) + 1)
    ]
    assert expected_best(scores) == pytest.approx(by_hand)


@given(SCORES)
def test_it_never_falls_and_ends_at_the_best(scores: list[float]) -> None:
    expected = expected_best(scores)
    assert (np.diff(expected) >= -1e-12).all()
    assert expected[-1] == max(scores)


def test_the_expected_best_agrees_with_a_simulation() -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(5, 2, size=20)
    orders = rng.permuted(np.tile(scores, (20_000, 1)), axis=1)
    best = np.maximum.accumulate(orders, axis=1)
    error = best.std(axis=0) / np.sqrt(len(best))
    assert (np.abs(best.mean(axis=0) - expected_best(scores)) <= 4 * error + 1e-12).all()


def test_for_many_trials_it_approaches_that_of_their_distribution() -> None:
    """The best of k uniform numbers is k / (k + 1) on average."""
    scores = (np.arange(1, 401) - 0.5) / 400
    k = np.arange(1, 11)
    assert expected_best(scores)[:10] == pytest.approx(k / (k + 1), abs=2e-3)
