"""The family of comparisons that are declared beforehand, and what a stopping rule does to it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from results.statistics.comparisons import declared, family, holm
from results.statistics.means import effect_size, superiority

# Student's sleep data (Biometrika 1908), as in test_statistics.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_what_is_declared():
    assert declared(["a", "b", "c"], ["dense", "random"]) == [
        *[("a", "dense"), ("b", "dense"), ("c", "dense")],
        *[("a", "random"), ("b", "random"), ("c", "random")],
        *[("a", "b"), ("a", "c"), ("b", "c")],
    ]


def test_pairs_are_by_seed_and_adjusted_together():
    values = {
        "a": {0: 0.80, 1: 0.82, 2: 0.84},
        "b": {1: 0.81, 2: 0.84, 3: 0.9},
        "c": {0: 0.70, 1: 0.71, 2: 0.76},
        "d": {7: 0.5},
    }
    compared = {(c.entry, c.reference): c for c in family(values, declared("abd", ["c"]))}
    assert compared["a", "b"].difference.n == 2
    assert compared["a", "b"].difference.mean == pytest.approx(0.005)
    assert compared["a", "d"].difference is None
    tested = [c for c in compared.values() if c.adjusted is not None]
    assert {c.family for c in tested} == {3}
    p_values = [c.difference.p_value for c in tested]
    assert [c.adjusted for c in tested] == pytest.approx(holm(p_values))
    expected = stats.ttest_rel([0.80, 0.82, 0.84], [0.70, 0.71, 0.76]).pvalue
    assert compared["a", "c"].difference.p_value == pytest.approx(expected)


def test_interim_analyses_raise_p_values_and_widen_intervals():
    values = {"a": dict(enumerate(DRUG_1)), "b": dict(enumerate(DRUG_2))}
    (compared,) = family(values, [("a", "b")], analyses=4)
    assert compared.difference.p_value == compared.adjusted == pytest.approx(4 * 0.002833, abs=4e-6)
    test = stats.ttest_rel(DRUG_1, DRUG_2).confidence_interval(1 - 0.05 / 4)
    assert (compared.difference.low, compared.difference.high) == pytest.approx(
        (test.low, test.high)
    )
    assert compared.resolved


def test_the_effect_size_of_the_sleep_data():
    """d_z = t / √n = -4.0621 / √10, times Hedges' J(9) = 0.9139 (his table: 0.914)."""
    differences = np.subtract(DRUG_1, DRUG_2)
    assert effect_size(differences) == pytest.approx(-4.0621 / np.sqrt(10) * 0.9139, abs=1e-4)
    assert effect_size([0.1, 0.2]) is None, "of two pairs the correction is 0"
    assert effect_size([0.1, 0.1, 0.1]) is None


def test_the_effect_size_is_unbiased():
    rng = np.random.default_rng(0)
    effects = [effect_size(sample) for sample in rng.normal(0.7, 1.0, size=(20000, 5))]
    assert np.mean(effects) == pytest.approx(0.7, abs=4 * np.std(effects) / np.sqrt(20000))


def test_aesops_tortoises_and_hares():
    """Mann and Whitney's example as told everywhere: T H H H H H T T T T T H, U = 11 and 25."""
    order = "THHHHHTTTTTH"
    places = {who: [12 - i for i, each in enumerate(order) if each == who] for who in "TH"}
    assert superiority(places["T"], places["H"]) == pytest.approx(11 / 36)
    assert superiority(places["H"], places["T"]) == pytest.approx(25 / 36)


def test_superiority_of_equals_is_a_half():
    assert superiority([0.5, 0.5], [0.5, 0.5]) == 0.5
    assert superiority([0.6], [0.5]) == 1.0
    assert superiority([], [0.5]) is None
