"""Friedman's and Nemenyi's tests against the examples of the literature."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results.statistics.ranks import critical_difference, ranking

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
        (0.972, 0.981, 0.9752, 0.9751),  # printed alike, ranked 2 and 3
        (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)

# Hollander and Wolfe (1973), p. 140: seconds to round first base by three methods, 22 players; R's
# `friedman.test` prints chi-squared = 11.143, p-value = 0.003805 for them.
ROUND_OUT = [540, 585, 520, 555, 590, 545, 540, 545, 525, 585, 525, 565, 560, 505, 550, 545, 555, 545,
             550, 565, 570, 630]  # fmt: skip
NARROW = [550, 570, 560, 550, 585, 555, 540, 550, 515, 580, 520, 555, 535, 500, 550, 555, 555, 550,
          545, 560, 565, 630]  # fmt: skip
WIDE = [555, 575, 550, 540, 570, 560, 535, 535, 500, 570, 510, 545, 545, 495, 540, 550, 535, 555, 525,
        540, 555, 625]  # fmt: skip


def test_demsars_average_ranks_and_critical_difference():
    found = ranking(TREES)
    expected = {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert list(found.ranks.index) == list(expected), "the best first"
    assert list(found.ranks) == pytest.approx(list(expected.values()), abs=5e-4)
    assert found.blocks == 14
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)


def test_demsars_friedman_statistic_but_for_ties():
    """He prints 9.28; ties are three pairs and one four, Σ(t³-t) = 78 of N·k·(k²-1) = 840."""
    found = ranking(TREES)
    assert found.chi_squared * (1 - 78 / 840) == pytest.approx(9.28, abs=5e-3)
    assert found.f == pytest.approx(13 * found.chi_squared / (14 * 3 - found.chi_squared))
    # With his 9.28, Iman and Davenport's F is 3.69, as printed.
    assert 13 * 9.28 / (14 * 3 - 9.28) == pytest.approx(3.69, abs=5e-3)


def test_demsars_table_of_critical_values():
    """Table 5 (a): q at 0.05 for 2 to 10 classifiers."""
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    q = [critical_difference(k, 1) / np.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    assert q == pytest.approx(printed, abs=1.5e-3)


def test_rounding_first_base():
    found = ranking(pd.DataFrame({"out": ROUND_OUT, "narrow": NARROW, "wide": WIDE}))
    assert found.chi_squared == pytest.approx(11.143, abs=5e-4)
    assert found.chi_squared_p == pytest.approx(0.003805, abs=5e-7)
    # More seconds are a worse time here, but a higher value, so the slowest is first.
    assert list(found.ranks.index) == ["out", "narrow", "wide"]


def test_nemenyis_p_values_agree_with_the_critical_difference():
    found = ranking(TREES)
    apart = np.abs(np.subtract.outer(found.ranks.to_numpy(), found.ranks.to_numpy()))
    told = found.pairs.loc[found.ranks.index, found.ranks.index].to_numpy() < 0.05
    assert (told == (apart > found.critical_difference)).all()


def test_where_all_agree_the_f_is_infinite():
    same = pd.DataFrame([(0.3, 0.2, 0.1)] * 5)
    found = ranking(same)
    assert (found.chi_squared, found.f, found.f_p) == (pytest.approx(10), np.inf, 0)


def test_too_little_for_a_ranking_is_refused():
    with pytest.raises(ValueError, match="4 systems under 4 conditions"):
        ranking(TREES[:4])
    with pytest.raises(ValueError, match="with gaps"):
        ranking(TREES.mask(TREES == 0.599))
