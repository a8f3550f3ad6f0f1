import numpy as np
import pytest
from scipy.stats import chisquare

from bench.data.order import Purpose, random_below, random_bits, random_order


def test_bits_match_a_computation_with_python_integers():
    mask = 2**64 - 1

    def mix(bits):
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & mask
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & mask
        return bits ^ (bits >> 31)

    golden = 0x9E3779B97F4A7C15
    expected = int(Purpose.FLIP)
    for counter in (7, 3, 12345):
        expected = mix((expected + golden) & mask) ^ counter
    assert random_bits(Purpose.FLIP, 7, 3, 12345).tolist() == [mix((expected + golden) & mask)]


@pytest.mark.parametrize(
    ("seed", "output"), [(0, 0xE220A8397B1DCDAF), (1234567, 0x599ED017FB08FC85)]
)
def test_without_counters_the_result_is_the_first_output_of_splitmix64(seed, output):
    assert random_bits(seed).tolist() == [output]


def test_counters_broadcast_and_do_not_depend_on_their_neighbours():
    together = random_bits(Purpose.CROP_ROW, 3, np.array([0, 0, 1]), np.array([4, 5, 4]))
    alone = [random_bits(Purpose.CROP_ROW, 3, e, i).item() for e, i in ((0, 4), (0, 5), (1, 4))]
    assert together.tolist() == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize("limit", [2, 9, 100])
def test_integers_below_a_limit_are_uniform(limit):
    drawn = random_below(limit, Purpose.CROP_COLUMN, 1, np.arange(100_000))
    counts = np.bincount(drawn, minlength=limit)
    assert len(counts) == limit
    assert chisquare(counts).pvalue > 1e-4


def test_purposes_and_consecutive_seeds_are_uncorrelated():
    draws = np.stack(
        [random_bits(purpose, seed, 0, np.arange(20_000)) for purpose in Purpose for seed in (0, 1)]
    ).astype(np.float64)
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.035  # five standard deviations


def test_every_position_is_equally_likely_in_an_order():
    orders = np.stack([random_order(5, Purpose.ORDER, seed, 0) for seed in range(5_000)])
    for place in orders.T:
        assert chisquare(np.bincount(place, minlength=5)).pvalue > 1e-4
