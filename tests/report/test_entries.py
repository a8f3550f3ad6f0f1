"""Which conditions are shown apart."""

from report.conditions import ANY, Entry, closest, closest_layer, fullest
from results.conditions import Condition


def at(settings: str) -> Condition:
    """The condition of `path=value path=value`."""
    return Condition.of(dict(setting.split("=", 1) for setting in settings.split()))


def test_a_condition_that_stands_beside_fuller_ones_is_not_shown_apart():
    dense, swept = Entry("dense"), [Entry("soft_moe", at(f"router.slots={n}")) for n in (1, 2)]
    assert fullest([dense, *swept]) == [at("router.slots=1"), at("router.slots=2")]


def test_a_condition_is_shown_where_one_of_its_entries_would_stand_nowhere_else():
    """A loss that is left out is no setting of the condition, and neither is a parent."""
    plain, weighed = Entry("soft_moe"), Entry("soft_moe", at("train.losses.z=0.1"))
    derived = Entry("soft_moe", at("transform=distill parent=attentive"))
    assert fullest([plain, weighed, derived]) == [ANY, weighed.condition, derived.condition]
    assert fullest([Entry("dense"), weighed]) == [weighed.condition]
    assert fullest([plain, derived, Entry("dense")]) == [ANY, derived.condition]


def test_beside_a_derived_trial_stand_those_that_were_trained_as_its_parent() -> None:
    plain, weighed = Entry("attentive"), Entry("attentive", at("train.losses.importance=0.2"))
    child = at("transform=distill parent=attentive parent.train.losses.importance=0.2")
    assert closest([plain, weighed], "attentive", child) == weighed
    assert closest([plain, weighed], "attentive", at("transform=distill parent=attentive")) == plain


def test_what_stands_beside_a_derived_trial_was_trained_as_its_parent_and_not_as_itself() -> None:
    plain, weighed = (Entry("soft_moe", at(f"train.losses.z={z}")) for z in ("unset", "0.2"))
    child = at("train.losses.z=unset transform=distill parent=attentive parent.train.losses.z=0.2")
    assert closest([plain, weighed], "soft_moe", child) == weighed
    sibling = Entry("soft_moe", child)
    assert closest([plain, weighed, sibling], "soft_moe", child) == sibling


def test_the_layer_of_a_derived_trial_is_its_own_and_not_its_parents() -> None:
    layers = [Entry("soft_moe", at(f"router.top_k={k}")) for k in (1, 2)]
    child = at(
        "router.top_k=1 train.lr=0.1 transform=distill parent=soft_moe parent.router.top_k=2"
    )
    assert closest_layer(layers, Entry("soft_moe", child)) == layers[0]
    assert closest_layer(layers, Entry("soft_moe", at("router.top_k=4"))) is None


def test_a_router_stands_beside_no_value_that_it_was_not_trained_at() -> None:
    one, two = (Entry("soft_moe", at(f"router.capacity_factor={c}")) for c in (1.0, 2.0))
    late, dense = Entry("late", two.condition), Entry("dense")
    assert fullest([one, two, late, dense]) == [one.condition, two.condition]
    assert closest([late], "late", one.condition) is None
    assert [late.stands_beside(other) for other in (one, two, dense)] == [False, True, True]
