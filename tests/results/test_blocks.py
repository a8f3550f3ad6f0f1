"""The noise of systems that share seeds, checked by textbook formulas and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.statistics.blocks import noise

rng = np.random.default_rng(0)
VALUES = rng.normal(size=(6, 4)) + 5 * rng.normal(size=4)
PAIRS = np.array([0, 0, 2]), np.array([1, 5, 3])


def of_differences(values, *others):
    return noise([values, *others])[0].of_difference(*PAIRS)


def test_the_noise_of_two_systems_is_the_variance_of_their_differences():
    (own,) = noise([VALUES[:2]])
    variance, degrees = own.of_difference(np.array([0]), np.array([1]))
    assert variance == pytest.approx(np.var(VALUES[0] - VALUES[1], ddof=1))
    assert degrees == pytest.approx(3)
    assert not own.shares.any()


def test_the_own_estimates_of_three_systems_are_those_of_grubbs():
    """The variance of one of three instruments is half of s²(ab) + s²(ac) - s²(bc)."""
    values = VALUES[:3]
    (own,) = noise([values])
    between = {(i, j): np.var(values[i] - values[j], ddof=1) for i, j in ((0, 1), (0, 2), (1, 2))}
    alone = (between[0, 1] + between[0, 2] - between[1, 2]) / 2
    pool = sum(between.values()) / 6
    share = own.shares[0]
    assert 0 < share < 1
    assert own.variances[0] == pytest.approx((1 - share) * pool + share * max(alone, 0))


def test_the_pooled_estimate_is_the_mean_square_of_two_way_anova():
    """It has at most as many degrees of freedom."""
    (own,) = noise([VALUES])
    centred = VALUES - VALUES.mean(0) - VALUES.mean(1, keepdims=True) + VALUES.mean()
    square = (centred**2).sum() / 15
    assert own.pooled == 15
    assert (own.of_difference(*PAIRS)[1] <= 15).all()
    # With equal shares, the mean of the own estimates is the pooled one.
    assert own.variances.mean() == pytest.approx(square, rel=0.2)


@given(
    shifts=st.lists(st.floats(-50, 50), min_size=4, max_size=4),
    means=st.lists(st.floats(-50, 50), min_size=6, max_size=6),
    scale=st.floats(0.01, 100),
)
def test_what_seeds_and_systems_add_changes_nothing(shifts, means, scale):
    variance, degrees = of_differences(VALUES)
    changed = scale * (VALUES + np.array(shifts) + np.array(means)[:, None])
    other, others_degrees = of_differences(changed)
    assert other == pytest.approx(scale**2 * variance, rel=1e-6)
    assert others_degrees == pytest.approx(degrees, rel=1e-6)


def test_the_order_of_systems_and_seeds_does_not_matter():
    (own,) = noise([VALUES])
    (turned,) = noise([VALUES[::-1, [2, 0, 3, 1]]])
    assert turned.variances[::-1] == pytest.approx(own.variances)


def test_several_studies_at_once_give_the_same_as_one_by_one():
    studies = np.random.default_rng(1).normal(size=(20, 6, 4))
    studies[:, 2, 1] = np.nan
    (together,) = noise([studies])
    for place, study in enumerate(studies):
        (alone,) = noise([study])
        assert together.variances[place] == pytest.approx(alone.variances)


def test_own_estimates_count_more_the_more_variances_differ():
    drawn = np.random.default_rng(2).normal(size=(200, 8, 10))
    shares = [
        noise([drawn * np.geomspace(1, ratio, 8)[:, None]])[0].shares.mean() for ratio in (1, 3, 30)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.3 < 0.7 < shares[-1]


def test_a_failed_run_costs_its_system_degrees_of_freedom():
    values = VALUES.copy()
    values[0, 3] = np.nan
    (own,), (whole,) = noise([values]), noise([VALUES])
    assert own.own[0] < own.own[1] <= whole.own[1]
    assert own.pooled == 14
    assert of_differences(values)[1][0] < of_differences(VALUES)[1][0]


def test_systems_without_a_seed_in_common_with_others_have_no_estimate():
    values = np.full((4, 5), np.nan)
    values[:3, :4] = VALUES[:3]
    values[3, 4] = 7.0
    (own,) = noise([values])
    assert own.variances[:3] == pytest.approx(noise([VALUES[:3]])[0].variances)
    assert own.own[3] == 0
    assert own.shares[3] == 0


def test_the_noise_of_a_condition_is_pulled_up_by_noisier_ones_and_never_down():
    quiet, loud = of_differences(VALUES)[0], of_differences(3 * VALUES)[0]
    assert (of_differences(VALUES, 3 * VALUES[::-1])[0] > quiet).all()
    assert of_differences(3 * VALUES, VALUES[::-1])[0] == pytest.approx(loud)
    few = of_differences(VALUES, 3 * VALUES[:4])
    assert few[0] == pytest.approx(quiet), "too few systems must not count"


def test_without_noise_there_is_no_variance():
    (own,) = noise([np.tile([0.3, 0.1 + 0.2, 0.3], (5, 1)) + np.arange(5)[:, None]])
    assert not own.variances.any()
