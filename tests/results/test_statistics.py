from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from results.statistics.comparisons import holm
from results.statistics.means import mean_interval, paired_difference

# Student's sleep data (Biometrika 1908): extra hours of sleep of ten patients under two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

moderate = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


def test_an_interval_worked_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    # sd 1, so the standard error is 1/sqrt(3); t(0.975, 2) = 4.302653.
    assert interval.mean == 2.0
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.n == 3


def test_the_paired_test_matches_students_own_example() -> None:
    # As printed by R's `t.test(extra ~ group, paired = TRUE)`.
    difference = paired_difference(DRUG_1, DRUG_2)
    assert difference.n == 10
    assert difference.mean == pytest.approx(-1.58)
    assert difference.low == pytest.approx(-2.4598858, abs=1e-7)
    assert difference.high == pytest.approx(-0.7001142, abs=1e-7)
    assert difference.p_value == pytest.approx(0.002833, abs=1e-6)
    assert difference.correlation == pytest.approx(0.7951702, abs=1e-7)


def test_too_few_values_have_no_interval() -> None:
    single = mean_interval([4.0])
    assert (single.n, single.mean, single.low, single.high) == (1, 4.0, None, None)
    infinite = mean_interval([1.0, math.inf, -math.inf])
    assert math.isnan(infinite.mean)
    assert infinite.low is None
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    pair = paired_difference([1.0], [0.5])
    assert (pair.mean, pair.low, pair.p_value, pair.correlation) == (0.5, None, None, None)
    with pytest.raises(ValueError, match="3 against 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_without_spread_the_interval_has_no_width() -> None:
    interval = mean_interval([0.25, 0.25, 0.25])
    assert (interval.low, interval.high) == (0.25, 0.25)
    same = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.mean, same.p_value, same.correlation) == (0.0, 1.0, pytest.approx(1.0))
    assert paired_difference([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).correlation is None


def test_identical_differences_have_no_test() -> None:
    """Three counts of images often are, and p = 0 would be a false alarm."""
    for a, b in (([1.5, 2.5, 3.5], [1.0, 2.0, 3.0]), ([0.84, 0.83, 0.81], [0.80, 0.79, 0.77])):
        shifted = paired_difference(a, b)
        assert (shifted.low, shifted.high, shifted.p_value) == (None, None, None)
    alike = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert (alike.mean, alike.low, alike.high, alike.p_value) == (0.0, 0.0, 0.0, 1.0)


@given(pairs=st.lists(st.tuples(moderate, moderate), min_size=3, max_size=12))
def test_the_paired_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    spread = np.ptp(a - b)
    assume(spread >= 1e-6 * (1 + np.abs(a - b).max()))
    ours = paired_difference(a.tolist(), b.tolist(), confidence=0.9)
    theirs = stats.ttest_rel(a, b)
    expected = theirs.confidence_interval(0.9)
    scale = float(np.abs([*expected, 1.0]).max())
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert ours.low == pytest.approx(expected.low, rel=1e-6, abs=1e-9 * scale)
    assert ours.high == pytest.approx(expected.high, rel=1e-6, abs=1e-9 * scale)


def test_intervals_cover_the_mean_at_the_stated_rate() -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(3.0, 2.0, size=(4000, 4))
    covered = 0
    for sample in samples:
        interval = mean_interval(sample.tolist())
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 3.0 <= interval.high
    low, high = stats.binom(4000, 0.95).ppf([0.001, 0.999])
    assert low <= covered <= high


def test_holm_on_a_worked_example() -> None:
    # Sorted: 0.005·4, 0.01·3, 0.03·2, 0.04·1, each at least the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@given(p_values=st.lists(st.floats(0, 1), max_size=12), alpha=st.floats(0.001, 0.5))
def test_holm_rejects_what_the_stepwise_procedure_rejects(
    p_values: list[float], alpha: float
) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected
