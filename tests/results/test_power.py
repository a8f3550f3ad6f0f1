"""The number of seeds that a gap takes, compared with G*Power and a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics.means import power_of, seeds_needed


def differences(effect: float) -> list[float]:
    """Return three differences with mean `effect` and standard deviation 1."""
    return [effect - 1, effect, effect + 1]


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_sample_sizes_match_those_of_g_power(effect, pairs):
    """G*Power 3.1: difference between two dependent means, two tails, 0.05, power 0.8."""
    assert seeds_needed(differences(effect)) == pairs


def test_power_matches_that_of_g_power():
    assert power_of(0.5, 34) == pytest.approx(0.8077775, abs=1e-6)


@pytest.mark.parametrize("effect", [0.4, 1.5])
def test_the_computed_number_of_seeds_finds_the_gap_at_the_stated_rate(effect):
    n = seeds_needed(differences(effect))
    samples = np.random.default_rng(0).normal(effect, 1.0, size=(20000, n))
    resolved = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    low, high = stats.binom(20000, power_of(effect, n)).ppf([0.0005, 0.9995]) / 20000
    assert low <= resolved.mean() <= high
    assert power_of(effect, n) >= 0.8 > power_of(effect, n - 1)


@given(effect=st.floats(1e-4, 50), n=st.integers(2, 10**6))
def test_power_is_a_probability_that_grows_with_the_pairs(effect, n):
    power = power_of(effect, n)
    assert 0.049 <= power <= 1
    assert power_of(effect, n + 1) >= power - 1e-9


def test_a_stricter_test_takes_more_seeds():
    assert seeds_needed(differences(0.5), alpha=0.05 / 27) > 34
    assert seeds_needed(differences(0.5), power=0.9) == 44


def test_no_number_of_seeds_is_given_if_it_cannot_be_estimated():
    assert seeds_needed([0.1]) is None
    assert seeds_needed([-0.1, 0.1]) is None
    assert seeds_needed([0.1, float("nan")]) is None
    assert seeds_needed([0.25, 0.25, 0.25]) is None, "three counts of images, equal by chance"
