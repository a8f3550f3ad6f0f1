"""The effects of chance alone, compared with known numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from results.statistics.comparisons import alarms, noise_floor


def test_the_clopper_pearson_interval_matches_the_published_one():
    """For 0 and 1 of 20, their 1934 chart reads 0 to 0.168 and 0.001 to 0.249."""
    none, one = alarms([0.5] * 20), alarms([0.01, *[0.5] * 19])
    assert (none.raised, none.tests, none.rate) == (0, 20, 0.0)
    assert (none.low, none.high) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert (one.rate, one.low, one.high) == (
        0.05,
        pytest.approx(0.0013, abs=1e-4),
        pytest.approx(0.2487, abs=1e-4),
    )


def test_only_a_p_value_below_alpha_is_an_alarm():
    assert alarms([0.049, 0.05, 0.2]).raised == 1


def test_the_noise_floor_matches_one_computed_by_hand():
    """The root mean square of 3 and -4 is √12.5; t at two degrees of freedom is 4.303."""
    assert noise_floor([3, -4], 2) == pytest.approx(4.302653 * np.sqrt(12.5) / np.sqrt(2))
    assert noise_floor([3, -4], 8) == pytest.approx(noise_floor([3, -4], 2) / 2)
    assert noise_floor([0, 0], 5) == 0


def test_the_noise_floor_covers_95_percent_of_chance_differences():
    """Floors from 6 differences each are compared with means of 6 other differences."""
    rng = np.random.default_rng(0)
    repeats, n = 4000, 6
    past, future = rng.normal(size=(2, repeats, n))
    inside = sum(
        abs(later.mean()) <= noise_floor(before, n)
        for before, later in zip(past, future, strict=True)
    )
    assert stats.binomtest(inside, repeats, 0.95).pvalue > 0.001


@pytest.mark.parametrize("count", [alarms, lambda values: noise_floor(values, 1)])
def test_empty_input_is_refused(count):
    with pytest.raises(ValueError, match="no "):
        count([])
