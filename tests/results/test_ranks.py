"""Friedman's and Nemenyi's tests, checked by examples from the literature."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.statistics.ranks import bootstrap_ranks, critical_difference, ranking

# Demšar, JMLR 7 (2006), table 6: AUC of four decision trees on 14 data sets.
TREES = pd.DataFrame(
    [
        (0.763, 0.768, 0.771, 0.798),
        (0.599, 0.591, 0.590, 0.569),
        (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657),
        (0.882, 0.888, 0.886, 0.898),
        (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685),
        (0.583, 0.583, 0.563, 0.625),
        (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000),
        (0.940, 0.962, 0.965, 0.962),
        (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.9752, 0.9751),  # printed as equal, but ranked 2 and 3
        (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)

# Hollander and Wolfe (1973), p. 140: seconds to round first base by three methods, 22 players; R's
# `friedman.test` prints chi-squared = 11.143, p-value = 0.003805 for them.
FIRST_BASE = pd.read_csv(
    StringIO(
        "out narrow wide\n5.40 5.50 5.55\n5.85 5.70 5.75\n5.20 5.60 5.50\n5.55 5.50 5.40\n"
        "5.90 5.85 5.70\n5.45 5.55 5.60\n5.40 5.40 5.35\n5.45 5.50 5.35\n5.25 5.15 5.00\n"
        "5.85 5.80 5.70\n5.25 5.20 5.10\n5.65 5.55 5.45\n5.60 5.35 5.45\n5.05 5.00 4.95\n"
        "5.50 5.50 5.40\n5.45 5.55 5.50\n5.55 5.55 5.35\n5.45 5.50 5.55\n5.50 5.45 5.25\n"
        "5.65 5.60 5.40\n5.70 5.65 5.55\n6.30 6.30 6.25\n"
    ),
    sep=" ",
)


def test_average_ranks_and_critical_difference_match_demsar():
    ranked = ranking(TREES)
    expected = {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert list(ranked.ranks.index) == list(expected), "the best must come first"
    assert list(ranked.ranks) == pytest.approx(list(expected.values()), abs=5e-4)
    assert ranked.blocks == 14
    assert ranked.critical_difference == pytest.approx(1.25, abs=5e-3)


def test_the_friedman_statistic_matches_demsar_except_for_ties():
    """He prints 9.28; ties are three pairs and one quadruple, Σ(t³-t) = 78 of N·k·(k²-1) = 840."""
    ranked = ranking(TREES)
    assert ranked.chi_squared * (1 - 78 / 840) == pytest.approx(9.28, abs=5e-3)
    assert ranked.f == pytest.approx(13 * ranked.chi_squared / (14 * 3 - ranked.chi_squared))


def test_critical_values_match_demsars_table():
    """Table 5 (a): q at 0.05 for 2 to 10 classifiers."""
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    q = [critical_difference(k, 1) / np.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    assert q == pytest.approx(printed, abs=1.5e-3)


def test_the_friedman_test_matches_r_on_rounding_first_base():
    ranked = ranking(FIRST_BASE)
    assert ranked.chi_squared == pytest.approx(11.143, abs=5e-4)
    assert ranked.chi_squared_p == pytest.approx(0.003805, abs=5e-7)
    # More seconds are worse here, but a higher value, so the slowest method comes first.
    assert list(ranked.ranks.index) == ["out", "narrow", "wide"]


def test_nemenyis_p_values_agree_with_the_critical_difference():
    ranked = ranking(TREES)
    apart = np.abs(np.subtract.outer(ranked.ranks.to_numpy(), ranked.ranks.to_numpy()))
    differ = ranked.pairs.loc[ranked.ranks.index, ranked.ranks.index].to_numpy() < 0.05
    assert (differ == (apart > ranked.critical_difference)).all()


def test_the_f_statistic_is_infinite_if_all_rankings_agree():
    same = pd.DataFrame([(0.3, 0.2, 0.1)] * 5)
    ranked = ranking(same)
    assert (ranked.chi_squared, ranked.f, ranked.f_p) == (pytest.approx(10), np.inf, 0)


def test_too_few_systems_or_missing_values_are_refused():
    with pytest.raises(ValueError, match="4 systems under 4 conditions"):
        ranking(TREES[:4])
    with pytest.raises(ValueError, match="with gaps"):
        ranking(TREES.mask(TREES == 0.599))


def test_a_system_that_always_leads_is_first_in_every_sample():
    values = np.arange(4)[:, None] + np.random.default_rng(0).normal(0, 0.01, size=(1, 4, 3))
    spreads = bootstrap_ranks(values)
    assert [(each.mean, each.low, each.high) for each in spreads] == [
        (4, 4, 4),
        (3, 3, 3),
        (2, 2, 2),
        (1, 1, 1),
    ]
    assert [each.best for each in spreads] == [0, 0, 0, 1]


def test_bootstrap_ranks_of_two_seeds_by_hand():
    """Each of two systems leads under one of the two seeds, and the third under neither."""
    first, second, third = bootstrap_ranks(np.array([[[3.0, 1.0], [2.0, 2.0], [0.0, 0.0]]]))
    assert first.best + second.best == 1
    assert first.best == pytest.approx(0.5, abs=0.05)
    assert (first.low, first.high, third.low, third.high) == (1, 2, 3, 3)
    assert first.mean + second.mean == 3


def test_tied_systems_share_the_lead():
    spreads = bootstrap_ranks(np.full((2, 4, 3), 0.8))
    assert [(each.mean, each.best) for each in spreads] == [(2.5, 0.25)] * 4


def test_equal_systems_lead_equally_often_and_have_wide_rank_intervals():
    rng = np.random.default_rng(1)
    spreads = [bootstrap_ranks(rng.normal(size=(1, 5, 5)), 200) for _ in range(200)]
    best = np.mean([[each.best for each in study] for study in spreads], 0)
    assert best == pytest.approx(0.2, abs=0.08)
    widths = np.mean([[each.high - each.low for each in study] for study in spreads])
    assert widths > 2


def test_bootstrap_means_vary_as_much_as_true_means():
    """The share of samples in which one beats another is about what its t value implies."""
    rng = np.random.default_rng(2)
    own = rng.normal(size=40)
    other = rng.normal(size=40)
    spread, _ = bootstrap_ranks(np.array([[own, other]]))
    z = (own - other).mean() / ((own - other).std(ddof=1) / np.sqrt(40))
    assert spread.best == pytest.approx(stats.norm.cdf(z), abs=0.03)


def test_conditions_are_resampled_too_and_failed_runs_are_left_out():
    """A sample may have only one of the conditions, and each system leads under one."""
    values = np.array([[[2.0, 2.0], [1.0, 1.0]], [[0.0, np.nan], [1.0, 1.0]]])
    first, second = bootstrap_ranks(values)
    assert first.best == pytest.approx(0.5, abs=0.05)
    assert (first.low, first.high, second.low, second.high) == (1, 2, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(3, 0.88), (5, 0.96), (10, 0.98)])
def test_intervals_cover_the_true_rank(seeds, least):
    """The systems are half a standard deviation apart."""
    rng, places = np.random.default_rng(seeds), np.arange(1, 9)
    held = []
    for _ in range(200):
        drawn = rng.normal(size=(1, 8, seeds)) - places[:, None] / 2
        spreads = bootstrap_ranks(drawn, 600)
        held += [s.low <= place <= s.high for s, place in zip(spreads, places, strict=True)]
    assert np.mean(held) >= least
