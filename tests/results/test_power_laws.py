"""Power laws: synthetic data with a known exponent, and data that follow no law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from results.statistics.power_laws import power_law

X = np.array([2.0, 4.0, 8.0, 16.0])


def sample(generator, exponent=-0.3, seeds=3, noise=0.05, floor=0.0):
    """Draw y = floor + 0.7 · x^exponent with noise per run and per seed."""
    x, seed = np.tile(X, seeds), np.repeat(np.arange(seeds), len(X))
    of_seed = generator.normal(0, 0.1, seeds)[seed]
    scale = np.exp(of_seed + generator.normal(0, noise, len(x)))
    return x, seed, (floor + 0.7 * x**exponent) * scale


def test_an_exact_law_is_recovered():
    law = power_law(X, [0] * 4, 3 * X**0.5)
    assert (law.exponent, law.factor, law.r_squared) == pytest.approx((0.5, 3, 1))
    assert (law.low, law.high) == pytest.approx((0.5, 0.5))
    assert law.against == ""


def test_a_single_seed_gives_scipys_regression():
    y = [0.9, 0.6, 0.52, 0.3]
    law, line = power_law(X, [0] * 4, y), stats.linregress(np.log(X), np.log(y))
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert (law.low, law.high) == pytest.approx((line.slope - half, line.slope + half))
    assert law.r_squared == pytest.approx(line.rvalue**2)
    assert law.factor == pytest.approx(np.exp(line.intercept))


def test_intervals_cover_the_exponent_and_true_laws_are_refused_at_the_stated_rates():
    generator = np.random.default_rng(0)
    laws = [power_law(*sample(generator)) for _ in range(1000)]
    covered = sum(law.low <= -0.3 <= law.high for law in laws)
    assert 0.93 < covered / 1000 < 0.97
    refused = sum(law.lack_of_fit < 0.05 for law in laws)
    assert 0.03 < refused / 1000 < 0.07


def test_a_curve_with_a_floor_is_no_power_law():
    law = power_law(*sample(np.random.default_rng(0), -2, noise=0.01, floor=0.1))
    assert law.against.startswith("no power law fits: the means leave the line")
    curved = power_law(X, [0] * 4, 0.1 + 0.7 * X**-2.0)
    assert curved.lack_of_fit is None
    assert curved.against.startswith("no power law fits: R² = 0.8")


def test_constant_values_have_no_trend():
    generator = np.random.default_rng(1)
    laws = [power_law(*sample(generator, exponent=0.0)) for _ in range(300)]
    flat = sum("no trend" in law.against for law in laws)
    assert flat / 300 > 0.85
    assert power_law(X, [0] * 4, [5.0] * 4).against == "no trend: it is the same everywhere"


def test_values_repeated_by_every_seed_count_as_one_measurement():
    y = [1.0, 2.1, 3.9, 8.3]
    one, three = power_law(X, [0] * 4, y), power_law(np.tile(X, 3), np.repeat(range(3), 4), y * 3)
    assert three == one


def test_a_seed_with_fewer_values_of_x_shifts_no_exponent():
    x, y = [4.0, 8.0, 16.0, 16.0], [1.0, 0.7, 0.5, 0.25]
    law = power_law(x, [0, 0, 0, 1], y)
    assert law.exponent == pytest.approx(stats.linregress(np.log(x[:3]), np.log(y[:3])).slope)


def test_too_few_points_and_numbers_without_logarithm_are_refused():
    with pytest.raises(ValueError, match="no fit: 2 values of x, and 3 are needed"):
        power_law([1, 2, 1, 2], [0, 0, 1, 1], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="no fit: a value is not above 0"):
        power_law([1, 2, 3], [0, 0, 0], [1, 0, 2])
