"""Interim analyses are planned beforehand; a decided comparison is different or equal."""

from __future__ import annotations

import pytest

from results.statistics.interim import interim_analyses, is_decided
from results.statistics.means import paired_difference


@pytest.mark.parametrize(
    ("first", "most", "planned"),
    [
        (3, 20, (3, 6, 12, 20)),
        (3, 24, (3, 6, 12, 24)),
        (5, 20, (5, 10, 20)),
        (3, 6, (3, 6)),
        (4, 4, (4,)),
    ],
)
def test_interim_analyses_double_up_to_the_limit(first, most, planned):
    assert interim_analyses(first, most) == planned


def test_a_limit_below_the_first_analysis_is_refused():
    with pytest.raises(ValueError, match="from 5 to 3"):
        interim_analyses(5, 3)


@pytest.mark.parametrize(
    ("values", "adjusted", "resolve", "decided"),
    [
        ([0.010, 0.011, 0.012], 0.049, 0.001, True),  # they differ
        ([0.010, 0.011, 0.012], 0.050, 0.001, False),
        ([-0.001, 0.0, 0.001], 1.0, 0.0025, True),  # the interval is ± 0.00248
        ([-0.001, 0.0, 0.001], 1.0, 0.0024, False),
        ([0.001, 0.002, 0.003], 1.0, 0.0025, False),  # it ends at 0.0045
        ([0.5], None, 0.9, False),  # a single seed decides nothing
    ],
)
def test_a_comparison_is_decided_if_different_or_equal(values, adjusted, resolve, decided):
    difference = paired_difference(values, [0.0] * len(values))
    assert is_decided(difference, adjusted, resolve) is decided
