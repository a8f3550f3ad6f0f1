"""The largest |t| of a family, compared with Tukey, Dunnett, and a simulation of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics.largest_t import LargestT


@pytest.mark.parametrize(("systems", "degrees"), [(2, 1), (3, 2), (5, 8), (10, 18), (20, 4.5)])
def test_without_nulls_it_equals_tukeys_studentized_range(systems, degrees):
    largest = LargestT(systems, 0)
    quantiles = stats.studentized_range.ppf([0.5, 0.95, 0.9875], systems, degrees) / np.sqrt(2)
    assert largest.exceeds(quantiles, degrees) == pytest.approx([0.5, 0.05, 0.0125], abs=1e-6)
    assert largest.critical(degrees, 0.05) == pytest.approx(quantiles[1], rel=1e-6)


@pytest.mark.parametrize(
    ("nulls", "degrees", "printed"),
    [(2, 10, 2.57), (4, 10, 2.89), (9, 20, 2.95), (4, 5, 3.48), (1, 12, 2.179)],
)
def test_with_one_router_it_equals_dunnetts(nulls, degrees, printed):
    """Two-sided 5 % points, Dunnett, "New tables for multiple comparisons with a control", 1964."""
    assert LargestT(1, nulls).critical(degrees, 0.05) == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize(("routers", "nulls"), [(2, 3), (4, 2), (6, 4)])
def test_critical_values_for_routers_and_nulls_agree_with_a_simulation(routers, nulls):
    rng = np.random.default_rng(routers)
    drawn = rng.normal(size=(100_000, routers + nulls))
    ranges = np.abs(drawn[:, :routers, None] - drawn[:, None, :]).max((1, 2)) / np.sqrt(2)
    t = ranges / np.sqrt(rng.chisquare(7, size=len(ranges)) / 7)
    for alpha in (0.2, 0.05, 0.01):
        above = int((t > LargestT(routers, nulls).critical(7, alpha)).sum())
        low, high = stats.binom(len(t), alpha).ppf([0.0005, 0.9995])
        assert low <= above <= high


@given(degrees=st.floats(0.4, 1e6), alpha=st.sampled_from([0.05, 0.0125]))
def test_a_critical_value_is_exceeded_as_often_as_it_says(degrees, alpha):
    largest = LargestT(3, 2)
    critical = largest.critical(degrees, alpha)
    assert largest.exceeds(critical, degrees) == pytest.approx(alpha, rel=1e-4)


def test_a_single_comparison_is_students_t():
    t, degrees = np.array([0.3, -2.0, 9.0, 400.0]), np.array([0.5, 3.0, 11.5, 2.0])
    expected = 2 * stats.t.sf(np.abs(t), degrees)
    assert LargestT(1, 1).exceeds(t, degrees) == pytest.approx(expected, abs=1e-8)
    assert LargestT(2, 0).exceeds(t, degrees) == pytest.approx(expected, abs=1e-8)


def test_the_critical_value_grows_with_the_family():
    values = [LargestT(*family).critical(6, 0.05) for family in ((3, 0), (4, 0), (4, 2), (4, 4))]
    assert values == sorted(values)


def test_with_few_routers_nulls_count_as_routers():
    assert LargestT.of_family(1, 4) == LargestT(5, 0)
    assert LargestT.of_family(3, 4) == LargestT(3, 4)
