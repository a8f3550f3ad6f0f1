"""Pareto fronts, by hand and by their defining property."""

from hypothesis import given
from hypothesis import strategies as st

from results.statistics.ranks import ALIKE, fronts


def test_fronts_by_hand():
    """a and b are best for their size; c is b's size and worse; d is worse than b and larger."""
    systems = {"a": (0.9, 200), "b": (0.8, 100), "c": (0.7, 100), "d": (0.75, 150), "e": (0.6, 160)}
    assert fronts(systems) == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}


def test_sizes_within_one_percent_count_as_equal():
    assert fronts({"a": (0.9, 100.9), "b": (0.8, 100)}) == {"a": 1, "b": 2}
    assert fronts({"a": (0.9, 101.1), "b": (0.8, 100)}) == {"a": 1, "b": 1}
    assert fronts({"a": (0.9, 100.9), "b": (0.9, 100)}) == {"a": 1, "b": 1}
    assert fronts({"a": (0.9, 102), "b": (0.9, 100)}) == {"a": 2, "b": 1}


def test_no_systems_have_no_front():
    assert fronts({}) == {}


SYSTEMS = st.lists(st.tuples(st.integers(0, 5), st.integers(90, 110)), max_size=12)


@given(SYSTEMS)
def test_who_stands_on_a_front_is_beaten_from_the_one_before_and_by_none_of_its_own(points):
    systems = dict(enumerate(points))
    fronts_of = fronts(systems)
    assert fronts_of.keys() == systems.keys()

    def beats(one, other):
        (value, cost), (its_value, its_cost) = systems[one], systems[other]
        if value == its_value:
            return cost < its_cost * (1 - ALIKE)
        return value > its_value and cost <= its_cost * (1 + ALIKE)

    for name, front in fronts_of.items():
        beaten_from = {fronts_of[other] for other in systems if beats(other, name)}
        assert front not in beaten_from
        assert front == 1 or front - 1 in beaten_from
