"""Rows are found by what identifies them."""

from __future__ import annotations

import pytest

from results import Component, Machine, StoreError, Subject
from results.store.records import ComponentRef


def test_trials_come_back_with_their_components(filler) -> None:
    store = filler.store
    router = store.components([Component("router", "mine", "text", "h1")])[0]
    data = store.components([Component("data", "digits", "", "h2")])[0]
    row = store.trials([Subject("abc1", {"seed": 0}, components=[router, data])])[0]
    store.trials([Subject("abd2", {"seed": 1})])[0]
    first, second = store.all_trials()
    assert (first.id, first.fingerprint, first.description) == (row, "abc1", {"seed": 0})
    assert set(first.components) == {
        ComponentRef("router", "mine", "h1"),
        ComponentRef("data", "digits", "h2"),
    }
    assert second.components == ()


def test_a_trial_is_found_by_a_prefix_of_its_fingerprint(filler) -> None:
    store = filler.store
    store.trials([Subject("abc1", {})])[0]
    store.trials([Subject("abd2", {})])[0]
    assert store.find_trial("abc").fingerprint == "abc1"
    with pytest.raises(StoreError, match=r"2 trials' fingerprints begin with 'ab'"):
        store.find_trial("ab")
    with pytest.raises(StoreError, match=r"begins with 'abx1'; did you mean 'abc1'"):
        store.find_trial("abx1")


def test_a_machine_is_found_by_its_description(filler) -> None:
    machine = Machine("other", "system", "processor", 2, 1, 10**9)
    assert filler.store.machine_id(machine) is None
    row = filler.store.machine(machine)
    assert filler.store.machine_id(machine) == row
