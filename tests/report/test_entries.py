"""Which conditions are shown apart."""

from report.entries import Entry, closest, fullest


def test_a_condition_that_stands_beside_fuller_ones_is_not_shown_apart():
    dense, swept = Entry("dense", ""), [Entry("soft_moe", f"router.slots={n}") for n in (1, 2)]
    assert fullest([dense, *swept]) == ["router.slots=1", "router.slots=2"]


def test_a_condition_is_shown_where_one_of_its_entries_would_stand_nowhere_else():
    """A loss that is left out is no setting of the condition, and neither is a parent."""
    plain, weighed = Entry("soft_moe", ""), Entry("soft_moe", "train.losses.z=0.1")
    derived = Entry("soft_moe", "transform=distill parent=attentive")
    assert fullest([plain, weighed, derived]) == ["", weighed.condition, derived.condition]
    assert fullest([Entry("dense", ""), weighed]) == [weighed.condition]
    assert fullest([plain, derived, Entry("dense", "")]) == ["", derived.condition]


def test_beside_a_derived_trial_stand_those_that_were_trained_as_its_parent() -> None:
    plain, weighed = Entry("attentive", ""), Entry("attentive", "train.losses.importance=0.2")
    child = "transform=distill parent=attentive parent.train.losses.importance=0.2"
    assert closest([plain, weighed], "attentive", child) == weighed
    assert closest([plain, weighed], "attentive", "transform=distill parent=attentive") == plain
