"""The family of comparisons declared beforehand, and the effect of a stopping rule on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics.blocks import noise
from results.statistics.comparisons import declared, family
from results.statistics.largest_t import LargestT
from results.statistics.means import effect_size, superiority

# Student's sleep data (Biometrika 1908), as in test_statistics.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_routers_are_declared_against_nulls_and_each_other():
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
    assert all(c.adjusted >= c.difference.p_value for c in tested)
    matrix = [[0.80, 0.82, 0.84, np.nan], [np.nan, 0.81, 0.84, 0.9], [0.70, 0.71, 0.76, np.nan]]
    ((variance,), (degrees,)) = noise([np.array(matrix)])[0].of_difference(
        np.array([0]), np.array([2])
    )
    a_c = compared["a", "c"]
    assert (a_c.deviation, a_c.degrees) == pytest.approx((np.sqrt(variance), degrees))
    t = a_c.difference.mean / (a_c.deviation / np.sqrt(3))
    assert a_c.difference.p_value == pytest.approx(2 * stats.t.sf(t, degrees))
    # With two routers the null counts as a third one: Tukey's studentized range.
    expected = stats.studentized_range.sf(np.sqrt(2) * t, 3, degrees)
    assert a_c.adjusted == pytest.approx(expected, abs=1e-6)
    half = LargestT(3, 0).critical(degrees, 0.05) * a_c.deviation / np.sqrt(3)
    assert a_c.difference.high - a_c.difference.mean == pytest.approx(half)


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=3), min_size=3, max_size=6),
    st.integers(1, 4),
)
def test_resolved_is_an_interval_that_leaves_out_zero(counts, analyses):
    """Accuracies of 200 images, often alike."""
    names = "abcdef"[: len(counts)]
    values = {
        name: dict(enumerate(np.array(each) / 200))
        for name, each in zip(names, counts, strict=True)
    }
    for c in family(values, declared(names[:-1], names[-1:]), analyses):
        if c.adjusted is None:
            assert c.difference.low is None
        elif abs(c.adjusted - 0.05) > 1e-5:
            assert c.resolved == (c.difference.low > 0 or c.difference.high < 0)


def test_identical_differences_are_tested_with_the_noise_of_the_others():
    values = {
        "a": {0: 0.80, 1: 0.82, 2: 0.84},
        "b": {0: 0.70, 1: 0.72, 2: 0.74},
        "c": {0: 0.70, 1: 0.71, 2: 0.76},
    }
    a_b = family(values, declared("abc", []))[0]
    assert 0 < a_b.adjusted < 0.05
    (alone,) = family(values, [("a", "b")])
    assert (alone.adjusted, alone.difference.low) == (None, None)


def test_a_system_with_excessive_scatter_is_named_and_has_its_own_noise():
    rng = np.random.default_rng(3)
    values = {name: dict(enumerate(rng.normal(0, 0.01, 5))) for name in "bcdefg"}
    values["a"] = dict(enumerate(rng.normal(0, 1, 5)))
    compared = family(values, declared("abcdefg", []))
    assert {c.noisy for c in compared if "a" in (c.entry, c.reference)} == {("a",)}
    assert {c.noisy for c in compared if "a" not in (c.entry, c.reference)} == {()}
    assert {c.degrees < 4 for c in compared if c.noisy} == {True}


def test_other_conditions_sharpen_tests_except_in_families_of_two():
    rng = np.random.default_rng(4)
    conditions = [{name: dict(enumerate(rng.normal(size=3))) for name in "abcde"} for _ in range(4)]
    pairs = declared("abcde", [])
    alone = family(conditions[0], pairs)
    informed = family(conditions[0], pairs, others=conditions[1:])
    assert all(c.degrees > d.degrees for c, d in zip(informed, alone, strict=True))
    two = family(conditions[0], [("a", "b")])
    assert two == family(conditions[0], [("a", "b")], others=conditions[1:])


def test_the_number_of_seeds_that_a_family_needs():
    rng = np.random.default_rng(5)
    noise_of = rng.normal(size=(6, 4))
    values = {name: dict(enumerate(row)) for name, row in zip("abcdef", noise_of, strict=True)}
    values["a"] = {seed: value + 3 for seed, value in values["a"].items()}
    compared = family(values, declared("abcdef", []))
    a_b, b_c = compared[0], compared[5]
    assert a_b.seeds_needed() < b_c.seeds_needed()
    assert a_b.seeds_needed(analyses=4) > a_b.seeds_needed()
    assert a_b.seeds_needed(power=0.99) > a_b.seeds_needed()
    assert compared[0].difference.mean > 0
    (untested,) = family({"a": {0: 1.0}, "b": {0: 2.0}}, [("a", "b")])
    assert untested.seeds_needed() is None


def test_interim_analyses_raise_p_values_and_widen_intervals():
    values = {"a": dict(enumerate(DRUG_1)), "b": dict(enumerate(DRUG_2))}
    (compared,) = family(values, [("a", "b")], analyses=4)
    assert compared.difference.p_value == pytest.approx(4 * 0.002833, abs=4e-6)
    assert compared.adjusted == pytest.approx(compared.difference.p_value, abs=1e-7)
    test = stats.ttest_rel(DRUG_1, DRUG_2).confidence_interval(1 - 0.05 / 4)
    assert (compared.difference.low, compared.difference.high) == pytest.approx(
        (test.low, test.high)
    )
    assert compared.resolved


def test_the_effect_size_of_the_sleep_data_matches_the_published_one():
    """d_z = t / √n = -4.0621 / √10, times Hedges' J(9) = 0.9139 (his table: 0.914)."""
    differences = np.subtract(DRUG_1, DRUG_2)
    assert effect_size(differences) == pytest.approx(-4.0621 / np.sqrt(10) * 0.9139, abs=1e-4)
    assert effect_size([0.1, 0.2]) is None, "for two pairs the correction is 0"
    assert effect_size([0.1, 0.1, 0.1]) is None


def test_the_effect_size_is_unbiased():
    rng = np.random.default_rng(0)
    effects = [effect_size(sample) for sample in rng.normal(0.7, 1.0, size=(20000, 5))]
    assert np.mean(effects) == pytest.approx(0.7, abs=4 * np.std(effects) / np.sqrt(20000))


def test_superiority_of_aesops_tortoises_and_hares_is_mann_and_whitneys():
    """Mann and Whitney's well-known example: T H H H H H T T T T T H, U = 11 and 25."""
    order = "THHHHHTTTTTH"
    places = {who: [12 - i for i, each in enumerate(order) if each == who] for who in "TH"}
    assert superiority(places["T"], places["H"]) == pytest.approx(11 / 36)
    assert superiority(places["H"], places["T"]) == pytest.approx(25 / 36)


def test_superiority_of_equals_is_a_half():
    assert superiority([0.5, 0.5], [0.5, 0.5]) == 0.5
    assert superiority([0.6], [0.5]) == 1.0
    assert superiority([], [0.5]) is None
